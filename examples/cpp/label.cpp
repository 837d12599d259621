// The labels of a video by ONNX Runtime alone: label MODEL INPUT=FILE ... Compile it with
//   g++ -std=c++17 -O2 label.cpp -I onnxruntime/include -L onnxruntime/lib -lonnxruntime -o label
//
// FILE has the raw values of an input. A model that carries its extractor takes pictures and 16 kHz sound:
//   ffmpeg -i clip.mp4 -vf 'fps=1,scale=224:224:flags=bicubic' -pix_fmt rgb24 -f rawvideo clip.rgb
//   ffmpeg -i clip.mp4 -ac 1 -ar 16000 -f f32le clip.f32
//   label model.onnx images=clip.rgb audio=clip.f32
// Any other takes the features of a video: label model.onnx rgb=rgb.bytes audio=audio.bytes
#include <onnxruntime_cxx_api.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>
#include <stdexcept>

std::string read(const std::string& input, int count, char** arguments) {
  for (int i = 2; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument.rfind(input + "=", 0)) continue;
    std::ifstream file(argument.substr(input.size() + 1), std::ios::binary);
    if (file) return {std::istreambuf_iterator<char>(file), {}};
  }
  throw std::runtime_error("give " + input + "=FILE, a file that can be read");
}

std::string from_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned value = 0, bits = 0;
  for (char digit : text.substr(0, text.find('='))) {
    value = value << 6 | digits.find(digit), bits += 6;
    if (bits >= 8) bytes += static_cast<char>(value >> (bits -= 8));
  }
  return bytes;
}

int main(int count, char** arguments) try {
  if (count < 2) throw std::runtime_error("give MODEL INPUT=FILE ...");
  Ort::Env env;
  Ort::Session session(env, arguments[1], Ort::SessionOptions());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto inputs = session.GetInputNames();
  std::vector<std::string> contents(inputs.size());
  std::vector<Ort::Value> values;
  std::vector<const char*> names;
  int64_t frames = 0;  // real ones of the video: the input num_frames, which comes last
  for (size_t i = 0; i < inputs.size(); ++i) {
    names.push_back(inputs[i].c_str());
    const auto type = session.GetInputTypeInfo(i);
    const auto element = type.GetTensorTypeAndShapeInfo().GetElementType();
    auto shape = type.GetTensorTypeAndShapeInfo().GetShape();
    contents[i] = inputs[i] == "num_frames" ? std::string(reinterpret_cast<char*>(&frames), sizeof frames)
                                            : read(inputs[i], count, arguments);
    // Of the axes without a length, the last has what the file holds. One before it counts videos.
    int64_t* open = nullptr;
    frames = contents[i].size() / (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 1);
    for (auto& size : shape) size > 0 ? frames /= size : (open = &size, size = 1);
    if (inputs[i] != "num_frames") *open = frames;
    values.push_back(
        Ort::Value::CreateTensor(memory, contents[i].data(), contents[i].size(), shape.data(), shape.size(), element));
  }
  const char* output = "probabilities";
  const auto found = session.Run({}, names.data(), values.data(), values.size(), &output, 1);
  const float* probabilities = found[0].GetTensorData<float>();

  Ort::AllocatorWithDefaultOptions allocator;
  const auto metadata = session.GetModelMetadata();
  const auto vocabulary = metadata.LookupCustomMetadataMapAllocated("vidfit.vocabulary", allocator);
  const auto bytes = metadata.LookupCustomMetadataMapAllocated("vidfit.thresholds", allocator);
  const std::string json = vocabulary.get(), thresholds = from_base64(bytes ? bytes.get() : "");
  const std::regex text("\"((?:[^\"\\\\]|\\\\.)*)\"");  // escapes in a label stay as they are
  std::sregex_iterator label(json.begin(), json.end(), text);
  for (size_t i = 0; label != std::sregex_iterator(); ++label, ++i) {
    const unsigned char code = thresholds.empty() ? 0 : thresholds[i];
    if (probabilities[i] >= (code ? 1 / (1 + std::exp((128.0 - code) / 16)) : 0.5))
      std::printf("%.6f %s\n", probabilities[i], (*label)[1].str().c_str());
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "label: %s\n", error.what());
  return 2;
}
