#if canImport(MLX)
    import MLX
    import MLXNN

    /// What a model does not take in a layer's place: mlx-swift's reason.
    struct NotReplaced: Error {
        let path: String
        /// The type of the module that was to be put there.
        let type: String
        let isOfExperts: Bool
        let reason: any Error
    }

    extension Module {
        /// Puts modules in the places of others, by path.
        ///
        /// Each is given to the module that owns it. mlx-swift's update of a whole model refuses arrays
        /// of modules of which the first, or one before the last, has nothing to replace: layers of a
        /// model of which some stay as they are.
        ///
        /// - Parameter replacements: paths as ``leafModules()`` has them, and modules.
        /// - Throws: ``NotReplaced`` if a property is of another type or has no `@ModuleInfo`.
        func replace(_ replacements: [(path: String, module: Module)]) throws {
            let owners = Dictionary(namedModules(), uniquingKeysWith: { first, _ in first })
            for (path, module) in replacements {
                let (owner, name) = split(path, owners)
                do {
                    try owner.put(module, name)
                } catch {
                    throw NotReplaced(
                        path: path,
                        type: "\(type(of: module))",
                        isOfExperts: module is any SwitchLayer,
                        reason: error
                    )
                }
            }
        }

        /// Replaces a property's module, or one of an array's.
        private func put(_ module: Module, _ name: String) throws {
            var values = [(name, module)]
            if let dot = name.firstIndex(of: ".") {
                // An array is given whole.
                let own = children().flattened().filter { $0.0.hasPrefix(name[...dot]) }
                values += own.filter { $0.0 != name }
            }
            try update(modules: ModuleChildren.unflattened(values), verify: [.noUnusedKeys])
        }

        /// The module that owns a path, and the rest of the path.
        private func split(_ path: String, _ owners: [String: Module]) -> (Module, String) {
            let dots = path.indices.filter { path[$0] == "." }
            for dot in dots.reversed() {
                if let owner = owners[String(path[..<dot])] {
                    return (owner, String(path[path.index(after: dot)...]))
                }
            }
            return (self, path)
        }
    }
#endif
