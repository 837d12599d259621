// A video's labels on iOS, by a packed file that carries its extractor. Needs onnxruntime-objc.
// `rate`, `pictureTime` and `size` are in the file's metadata, `vidfit.extractor`; `audio` is 16 kHz mono.
// Never compiled: compare your pictures with the reference vectors in docs/reference/file-formats.md.
import AVFoundation
import onnxruntime_objc

/// RGB bytes of a frame, stretched to a square.
func picture(_ frame: CGImage, size: Int) -> Data {
    let context = CGContext(data: nil, width: size, height: size, bitsPerComponent: 8, bytesPerRow: 4 * size,
        space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
    context.interpolationQuality = .high
    context.draw(frame, in: CGRect(x: 0, y: 0, width: size, height: size))
    let rgba = context.data!.assumingMemoryBound(to: UInt8.self)
    return Data((0..<size * size * 3).map { rgba[4 * ($0 / 3) + $0 % 3] })
}

func probabilities(
    _ session: ORTSession, video: AVAsset, audio: [Float], rate: Double, pictureTime: Double, size: Int
) throws -> [Float] {
    let frames = AVAssetImageGenerator(asset: video)
    frames.appliesPreferredTrackTransform = true
    (frames.requestedTimeToleranceBefore, frames.requestedTimeToleranceAfter) = (.zero, .zero)
    let steps = max(1, Int((video.duration.seconds * rate + 1e-6).rounded(.toNearestOrEven)))
    let images = NSMutableData()
    for step in 0..<steps {
        let time = CMTime(seconds: (Double(step) + pictureTime) / rate, preferredTimescale: 600_000)
        images.append(picture(try frames.copyCGImage(at: time, actualTime: nil), size: size))
    }
    let sound = NSMutableData(bytes: audio, length: 4 * audio.count)
    let shape = [steps, size, size, 3].map { NSNumber(value: $0) }
    let inputs = ["images": try ORTValue(tensorData: images, elementType: .uInt8, shape: shape),
                  "audio": try ORTValue(tensorData: sound, elementType: .float, shape: [NSNumber(value: audio.count)])]
    let found = try session.run(withInputs: inputs, outputNames: ["probabilities"], runOptions: nil)
    return try found["probabilities"]!.tensorData().withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
}
