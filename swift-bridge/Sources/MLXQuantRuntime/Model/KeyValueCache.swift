/// The keys and values of tokens that a model has seen, in float32.
///
///     keys, values   a layer each: [position, head · headSize + i]
final class KeyValueCache {
    private(set) var count = 0
    private var capacity = 0
    private let layers: Int
    private let width: Int
    private var keys: [UnsafeMutablePointer<Float>] = []
    private var values: [UnsafeMutablePointer<Float>] = []

    /// - Parameters:
    ///   - layers: of the model.
    ///   - width: heads · headSize of the keys.
    init(layers: Int, width: Int) {
        self.layers = layers
        self.width = width
        reserve(256)
    }

    deinit { for pointer in keys + values { pointer.deallocate() } }

    /// Makes room for so many tokens in all.
    func reserve(_ tokens: Int) {
        guard tokens > capacity else { return }
        let room = max(tokens, 2 * capacity)
        func grown(_ old: [UnsafeMutablePointer<Float>]) -> [UnsafeMutablePointer<Float>] {
            (0..<layers).map { layer in
                let new = UnsafeMutablePointer<Float>.allocate(capacity: room * width)
                if old.indices.contains(layer) {
                    new.update(from: old[layer], count: count * width)
                    old[layer].deallocate()
                }
                return new
            }
        }
        keys = grown(keys)
        values = grown(values)
        capacity = room
    }

    func keys(of layer: Int) -> UnsafeMutablePointer<Float> { keys[layer] }

    func values(of layer: Int) -> UnsafeMutablePointer<Float> { values[layer] }

    /// Says that so many more tokens are in all layers.
    func advance(by tokens: Int) { count += tokens }

    /// Forgets what comes after so many tokens.
    func trim(to tokens: Int) { count = min(count, tokens) }
}
