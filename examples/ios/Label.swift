// The labels of a video on iOS 15: the pod onnxruntime-objc. (The Swift package's module is OnnxRuntimeBindings.)
//
// `vidfit export model.onnx phone --to ort` writes the files of `folder`: vidfit.json, pictures.onnx, sounds.onnx and
// model.onnx. This example was read, not compiled: no Swift compiler was at hand. `examples/android` is the same, and runs
// in a test. It is for models that look and listen. Call it from a worker thread.
import AVFoundation
import onnxruntime_objc

/// vidfit.json. ONNX Runtime's Objective-C API does not read a model's own metadata.
struct Settings: Decodable {
    let vocabulary: [String], thresholds: [Float], modalities: [String: Int]
    let rate, picture_time: Double  // steps per second; of a step
    let picture_size, sound_window: Int  // pixels; samples
}

final class Labeller {
    private let settings: Settings
    private let environment: ORTEnv
    private let pictures, sounds, model: ORTSession

    init(folder: URL) throws {
        let text = try Data(contentsOf: folder.appendingPathComponent("vidfit.json"))
        settings = try JSONDecoder().decode(Settings.self, from: text)
        let environment = try ORTEnv(loggingLevel: .warning)
        func session(_ name: String) throws -> ORTSession {
            try ORTSession(env: environment, modelPath: folder.appendingPathComponent(name).path, sessionOptions: nil)
        }
        pictures = try session("pictures.onnx")
        sounds = try session("sounds.onnx")
        model = try session("model.onnx")
        self.environment = environment
    }

    /// The labels that hold, the most probable first.
    func label(_ video: AVAsset) throws -> [(name: String, probability: Float)] {
        let steps = max(1, Int((video.duration.seconds * settings.rate + 1e-6).rounded(.toNearestOrEven)))
        func features(_ bytes: Data) throws -> ORTValue { try value(bytes, .uInt8, [1, steps, bytes.count / steps]) }
        let count = withUnsafeBytes(of: Int64(steps)) { Data($0) }
        let inputs = [
            "rgb": try features(seen(video, steps)), "audio": try features(heard(sound(video), steps)),
            "num_frames": try value(count, .int64, [1])]
        // The output frame_probabilities, if the model has it, says when: [1, steps, classes].
        let output = try run(model, inputs, "probabilities")
        let probabilities = output.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        return probabilities.indices.filter { probabilities[$0] >= settings.thresholds[$0] }
            .map { (name: settings.vocabulary[$0], probability: probabilities[$0]) }
            .sorted { $0.probability > $1.probability }
    }

    /// Features of the pictures, uint8 [steps, K]. Bytes of 127 stand for a step without picture.
    private func seen(_ video: AVAsset, _ steps: Int) throws -> Data {
        let reader = AVAssetImageGenerator(asset: video)
        reader.appliesPreferredTrackTransform = true
        reader.requestedTimeToleranceBefore = .zero
        reader.requestedTimeToleranceAfter = .zero
        let size = settings.picture_size
        var found = Data(), image: Data?
        for step in 0..<steps {
            let seconds = (Double(step) + settings.picture_time) / settings.rate
            let time = CMTime(seconds: seconds, preferredTimescale: 600_000)
            // It fails after the last frame, which stays.
            if let frame = try? reader.copyCGImage(at: time, actualTime: nil) { image = picture(frame) }
            if let image = image {
                found += try run(pictures, ["images": value(image, .uInt8, [1, size, size, 3])], "rgb")
            } else {
                found += Data(repeating: 127, count: settings.modalities["rgb"]!)
            }
        }
        return found
    }

    /// In the frame's own colours: another space would convert them.
    private func picture(_ frame: CGImage) -> Data {
        let context = CGContext(data: nil, width: frame.width, height: frame.height, bitsPerComponent: 8,
            bytesPerRow: 4 * frame.width, space: frame.colorSpace ?? CGColorSpaceCreateDeviceRGB(),
            bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
        context.draw(frame, in: CGRect(x: 0, y: 0, width: frame.width, height: frame.height))
        let pixels = context.data!.assumingMemoryBound(to: UInt8.self)
        return squared(pixels, frame.width, frame.height, settings.picture_size)
    }

    /// Features of the sound, uint8 [steps, K]. Bytes of 127 stand for a step without sound.
    private func heard(_ sound: [Float], _ steps: Int) throws -> Data {
        let length = settings.sound_window
        var found = Data()
        for step in 0..<steps {
            if let samples = window(sound, step, settings.rate, length) {
                let data = samples.withUnsafeBytes { Data($0) }
                found += try run(sounds, ["windows": value(data, .float, [1, length])], "audio")
            } else {
                found += Data(repeating: 127, count: settings.modalities["audio"]!)
            }
        }
        return found
    }

    private func value(_ data: Data, _ type: ORTTensorElementDataType, _ shape: [Int]) throws -> ORTValue {
        try ORTValue(tensorData: NSMutableData(data: data), elementType: type, shape: shape.map { NSNumber(value: $0) })
    }

    private func run(_ session: ORTSession, _ inputs: [String: ORTValue], _ output: String) throws -> Data {
        try session.run(withInputs: inputs, outputNames: [output], runOptions: nil)[output]!.tensorData() as Data
    }
}

/// The sound of a video: 16 kHz, the mean of its channels, from -1 to 1. Empty if there is none.
func sound(_ video: AVAsset) throws -> [Float] {
    guard let track = video.tracks(withMediaType: .audio).first else { return [] }
    let reader = try AVAssetReader(asset: video)
    let output = AVAssetReaderTrackOutput(track: track, outputSettings: [
        AVFormatIDKey: kAudioFormatLinearPCM, AVLinearPCMBitDepthKey: 32, AVLinearPCMIsFloatKey: true,
        AVLinearPCMIsBigEndianKey: false, AVLinearPCMIsNonInterleaved: false])
    reader.add(output)
    reader.startReading()
    var mono: [Float] = []
    var rate = 16000
    while let buffer = output.copyNextSampleBuffer() {
        guard let block = CMSampleBufferGetDataBuffer(buffer), let format = CMSampleBufferGetFormatDescription(buffer),
            let description = CMAudioFormatDescriptionGetStreamBasicDescription(format)?.pointee else { continue }
        rate = Int(description.mSampleRate)
        let channels = Int(description.mChannelsPerFrame)
        try block.dataBytes().withUnsafeBytes { bytes in
            let samples = bytes.bindMemory(to: Float.self)
            for first in stride(from: 0, to: samples.count, by: channels) {
                mono.append(samples[first..<first + channels].reduce(0, +) / Float(channels))
            }
        }
    }
    if let error = reader.error { throw error }
    return resampled(mono, rate)
}
