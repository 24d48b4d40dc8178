import MLXQuantFormats

do {
    let file = try SafetensorsFile(CommandLine.arguments.last ?? "")
    for tensor in file.tensors {
        print(tensor.name, tensor.type.rawValue, tensor.shape)
    }
} catch {
    print(error)
}
