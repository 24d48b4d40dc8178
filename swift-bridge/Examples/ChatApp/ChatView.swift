#if canImport(SwiftUI)
    import SwiftUI

    /// A conversation with the model in the app's bundle.
    ///
    /// `ModelInfo` is the type that `mlxquant export --to swift` wrote beside the weights.
    struct ChatView: View {
        @State private var conversation = Conversation()
        @State private var draft = ""

        var body: some View {
            VStack(spacing: 0) {
                ScrollView {
                    LazyVStack(alignment: .leading, spacing: 12) {
                        ForEach(conversation.turns) { turn in
                            row(turn)
                        }
                    }
                    .padding()
                }
                .defaultScrollAnchor(.bottom)
                Divider()
                status
                input
            }
            .navigationTitle(ModelInfo.name)
            .task { await open() }
            .onDisappear { conversation.stop() }
        }

        private func row(_ turn: Conversation.Turn) -> some View {
            Text(turn.text)
                .textSelection(.enabled)
                .padding(10)
                .background(turn.role == "user" ? Color.accentColor.opacity(0.15) : .clear)
                .clipShape(RoundedRectangle(cornerRadius: 12))
                .frame(
                    maxWidth: .infinity,
                    alignment: turn.role == "user" ? .trailing : .leading
                )
        }

        @ViewBuilder private var status: some View {
            switch conversation.state {
            case .loading:
                ProgressView("opening \(ModelInfo.name)").padding(8)
            case .failed(let reason):
                VStack(spacing: 8) {
                    problem(reason)
                    Button("Try again") { Task { await open() } }
                }
                .padding(8)
            case .idle, .answering:
                if let reason = conversation.problem {
                    problem(reason).padding(8)
                }
            }
        }

        private func problem(_ reason: String) -> some View {
            Label(reason, systemImage: "exclamationmark.triangle")
                .foregroundStyle(.red)
                .textSelection(.enabled)
        }

        private var input: some View {
            HStack {
                TextField("Message", text: $draft, axis: .vertical)
                    .textFieldStyle(.roundedBorder)
                    .onSubmit(send)
                Group {
                    if conversation.state == .answering {
                        Button("Stop", systemImage: "stop.fill", action: conversation.stop)
                    } else {
                        Button("Send", systemImage: "paperplane.fill", action: send)
                            .disabled(conversation.state != .idle || draft.isEmpty)
                    }
                }
                .labelStyle(.iconOnly)
            }
            .padding()
        }

        /// What is not taken stays in the field.
        private func send() {
            if conversation.send(draft) {
                draft = ""
            }
        }

        /// The folder is in the bundle under the name that it has in the project: `Model`.
        private func open() async {
            guard let folder = Bundle.main.url(forResource: "Model", withExtension: nil) else {
                conversation.fail(
                    "the app has no folder Model: add the exported one as a folder reference"
                )
                return
            }
            await conversation.load(folder)
        }
    }
#endif
