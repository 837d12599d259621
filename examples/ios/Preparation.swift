// Pictures and sound as the models want them: as FFmpeg scales and resamples. Apple's own filters give other bytes, and
// so other labels. Nothing here needs iOS. `docs/reference/reference-vectors.json` has values to compare with.
import Foundation

/// Weights for each place of a result, and the first value that they count.
struct Filter {
    var firsts: [Int] = []
    var weights: [[Float]] = []
}

/// RGB bytes of a picture (four bytes each, RGBX, row by row), stretched to a square.
func squared(_ pixels: UnsafePointer<UInt8>, _ width: Int, _ height: Int, _ size: Int) -> Data {
    let across = bicubic(width, size), down = bicubic(height, size)
    let line = 3 * size
    var narrow = [Float](repeating: 0, count: height * line)
    for row in 0..<height {
        for column in 0..<size {
            var red: Float = 0, green: Float = 0, blue: Float = 0
            var from = 4 * (row * width + across.firsts[column])
            for weight in across.weights[column] {
                red += weight * Float(pixels[from])
                green += weight * Float(pixels[from + 1])
                blue += weight * Float(pixels[from + 2])
                from += 4
            }
            let to = row * line + 3 * column
            narrow[to] = red
            narrow[to + 1] = green
            narrow[to + 2] = blue
        }
    }
    var found = Data(count: size * line)
    for place in 0..<size * line {
        var from = down.firsts[place / line] * line + place % line
        var sum: Float = 0
        for weight in down.weights[place / line] {
            sum += weight * narrow[from]
            from += line
        }
        found[place] = UInt8(min(max(sum.rounded(), 0), 255))
    }
    return found
}

/// FFmpeg's bicubic filter (B = 0, C = 0.6) from `length` values to `size`. It widens when a picture shrinks.
private func bicubic(_ length: Int, _ size: Int) -> Filter {
    let step = Double(length) / Double(size)
    let reach = max(step, 1)
    let taps = min(1 + Int((4 * reach).rounded(.up)), length)
    var filter = Filter()
    for place in 0..<size {
        let centre = (Double(place) + 0.5) * step - 0.5
        let nearest = Int(centre + 1 - Double(taps) / 2)
        let first = min(max(nearest, 0), length - taps)
        var weights = [Double](repeating: 0, count: taps)
        for from in nearest..<nearest + taps {
            // Beyond the border its pixel goes on.
            let inside = min(max(from, 0), length - 1)
            weights[inside - first] += cubic(abs(Double(from) - centre) / reach)
        }
        filter.firsts.append(first)
        filter.weights.append(normalised(weights))
    }
    return filter
}

private func cubic(_ x: Double) -> Double {
    if x < 1 { return 1.4 * x * x * x - 2.4 * x * x + 1 }
    if x < 2 { return 0.6 * (-x * x * x + 5 * x * x - 8 * x + 4) }
    return 0
}

/// Samples of some rate at 16 kHz, by FFmpeg's default filter.
func resampled(_ samples: [Float], _ rate: Int) -> [Float] {
    if rate == 16000 || samples.isEmpty { return samples }
    var common = 16000, rest = rate
    while rest != 0 { (common, rest) = (rest, common % rest) }
    let step = rate / common
    // After so many samples, the new ones lie between the old ones as before.
    let phases = 16000 / common
    let weights = (0..<phases).map { kaiser(Double($0) / Double(phases), rate) }
    let middle = (weights[0].count - 1) / 2
    let count = samples.count
    return (0..<(count * phases + step - 1) / step).map { (index: Int) -> Float in
        let first = index * step / phases - middle
        var sum: Float = 0
        for (tap, weight) in weights[index * step % phases].enumerated() {
            // Before its beginning and after its end, FFmpeg mirrors the sound.
            let from = abs(first + tap)
            let inside = from < count ? from : 2 * count - 1 - from
            sum += weight * samples[min(max(inside, 0), count - 1)]
        }
        return sum
    }
}

/// Weights around a place that lies `fraction` of a sample behind the middle one: 32 periods of a windowed sinc.
private func kaiser(_ fraction: Double, _ rate: Int) -> [Float] {
    let cutoff = min(0.97 * 16000 / Double(rate), 1)
    let length = 2 * Int((16 / cutoff).rounded(.up))
    var weights: [Double] = []
    for tap in 0..<length {
        let x = Double(tap - (length - 1) / 2) - fraction
        let edge = 2 * x / Double(length)
        let sinc = x == 0 ? 1 : sin(Double.pi * x * cutoff) / (Double.pi * x * cutoff)
        weights.append(sinc * bessel(9 * max(1 - edge * edge, 0).squareRoot()))
    }
    return normalised(weights)
}

/// The modified Bessel function I0.
private func bessel(_ x: Double) -> Double {
    var term = 1.0, sum = 1.0, order = 1.0
    while term > 1e-12 * sum {
        term *= (x / (2 * order)) * (x / (2 * order))
        sum += term
        order += 1
    }
    return sum
}

private func normalised(_ weights: [Double]) -> [Float] {
    let sum = weights.reduce(0, +)
    return weights.map { Float($0 / sum) }
}

/// The sound of a step. Nil if it has less than half of it.
func window(_ sound: [Float], _ step: Int, _ rate: Double, _ length: Int) -> [Float]? {
    let start = Int((Double(step) * 16000 / rate).rounded(.toNearestOrEven))
    if 2 * (sound.count - start) < length { return nil }
    let samples = Array(sound[start..<min(start + length, sound.count)])
    return samples + [Float](repeating: 0, count: length - samples.count)
}
