"""Load NCCL and print its version, as 2.22.3."""

import ctypes

number = ctypes.c_int()
# The soname of every NCCL 2. The coding of the number is that of NCCL_VERSION in nccl.h since 2.9.
if ctypes.CDLL("libnccl.so.2").ncclGetVersion(ctypes.byref(number)):
    raise SystemExit("ncclGetVersion failed")
print("%d.%d.%d" % (number.value // 10000, number.value // 100 % 100, number.value % 100))
