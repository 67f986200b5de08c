// What torch asks CUDA's libraries for before it makes a tensor that says "cuda:0". Preloaded, under the driver's name.
static int devices = 0;

extern "C" __attribute__((visibility("default"))) void set_devices(int count) { devices = count; }

extern "C" __attribute__((visibility("default"))) int cuDevicePrimaryCtxGetState(int, unsigned *flags, int *active) {
  *flags = 0;
  *active = 0;
  return 0;
}

namespace c10::cuda {
__attribute__((visibility("default"))) bool hasPrimaryContext(signed char) { return false; }
__attribute__((visibility("default"))) signed char device_count() noexcept { return devices; }
}  // namespace c10::cuda
