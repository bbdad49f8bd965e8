// ExecuTorch for a parent process: requests on standard input, answers on standard output, as Worker.java says.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace executorch::extension::threadpool {
// The package has the library of these, and no header.
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

using executorch::extension::Module;

namespace {

constexpr int32_t kMagic = 0x55445331;
std::unique_ptr<Module> module;

void read_bytes(void* to, size_t size) {
  if (fread(to, 1, size, stdin) != size) {
    exit(0);  // the end of standard input ends the process
  }
}

int32_t read_int() {
  uint32_t value;
  read_bytes(&value, sizeof value);
  return static_cast<int32_t>(__builtin_bswap32(value));
}

void append_int(std::string& to, int32_t value) {
  const uint32_t swapped = __builtin_bswap32(static_cast<uint32_t>(value));
  to.append(reinterpret_cast<const char*>(&swapped), sizeof swapped);
}

void require(executorch::runtime::Error error, const char* what) {
  if (error != executorch::runtime::Error::Ok) {
    throw std::runtime_error(std::string(what) + ": ExecuTorch's error " + executorch::runtime::to_string(error));
  }
}

std::string load() {
  std::string path(read_int(), '\0');
  read_bytes(path.data(), path.size());
  module = std::make_unique<Module>(path, Module::LoadMode::Mmap);
  require(module->load_forward(), "it would not load");
  return "";
}

std::string run() {
  const int32_t calls = read_int();
  std::vector<executorch::aten::SizesType> shape(read_int());
  size_t count = 1;
  for (auto& size : shape) {
    size = read_int();
    count *= size;
  }
  std::vector<float> values(count);
  read_bytes(values.data(), count * sizeof(float));
  const auto input = executorch::extension::from_blob(values.data(), shape);
  std::string answer;
  for (int32_t call = 0; call < calls; call++) {
    const auto outputs = module->forward(input);
    require(outputs.error(), "it did not run");
    if (call + 1 < calls) {
      continue;
    }
    const auto output = outputs->at(0).toTensor();
    if (outputs->size() != 1 || output.scalar_type() != executorch::aten::ScalarType::Float) {
      throw std::runtime_error("one float32 output is expected");
    }
    append_int(answer, static_cast<int32_t>(output.dim()));
    for (const auto size : output.sizes()) {
      append_int(answer, size);
    }
    answer.append(static_cast<const char*>(output.const_data_ptr()), output.nbytes());
  }
  return answer;
}

std::string answer_to(int request) {
  switch (request) {
    case 'T':
      executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(read_int());
      return "";
    case 'L':
      return load();
    case 'R':
      return run();
    default:
      throw std::runtime_error("unknown request " + std::to_string(request));
  }
}

}  // namespace

int main() {
  for (int request; (request = getchar()) != EOF && request != 'Q';) {
    std::string answer;
    char status = 0;
    try {
      answer = answer_to(request);
    } catch (const std::exception& error) {
      status = 1;
      answer = error.what();
    }
    std::string head;
    append_int(head, kMagic);
    head.push_back(status);
    append_int(head, static_cast<int32_t>(answer.size()));
    fwrite(head.data(), 1, head.size(), stdout);
    fwrite(answer.data(), 1, answer.size(), stdout);
    fflush(stdout);
  }
  _Exit(0);
}
