"""An MPI program without a compiler: joins MPI_COMM_WORLD through ctypes and says its rank."""

import ctypes

mpi = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)  # the soname of Open MPI 4 and 5
world = ctypes.byref(ctypes.c_byte.in_dll(mpi, "ompi_mpi_comm_world"))
rank, size = ctypes.c_int(-1), ctypes.c_int(-1)
mpi.MPI_Init(None, None)
mpi.MPI_Comm_rank(world, ctypes.byref(rank))
mpi.MPI_Comm_size(world, ctypes.byref(size))
print("rank %d of %d" % (rank.value, size.value), flush=True)
mpi.MPI_Finalize()
