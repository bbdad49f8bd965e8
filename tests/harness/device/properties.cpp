// A phone's adbd reads Android's system properties; on a desk this file gives it the few that it asks for.
#include <cstdlib>
#include <string>

#include <android-base/properties.h>

namespace {
const bool kSet = [] {
  const char* pairs[][2] = {
      {"ADBD_LISTEN", "service.adb.listen_addrs"},  // tcp:localhost:PORT: the loopback alone
      {"ADBD_SECURE", "ro.adb.secure"},             // 1: refuses a desk whose key it does not know
      {"ADBD_MODEL", "ro.product.model"},
  };
  for (auto [variable, property] : pairs) {
    if (const char* value = std::getenv(variable)) android::base::SetProperty(property, value);
  }
  return true;
}();
}  // namespace
