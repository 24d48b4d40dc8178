#if canImport(SwiftUI)
    import SwiftUI

    /// The app: one window, one conversation.
    @main
    struct ChatApp: App {
        var body: some Scene {
            WindowGroup {
                NavigationStack { ChatView() }
            }
        }
    }
#endif
