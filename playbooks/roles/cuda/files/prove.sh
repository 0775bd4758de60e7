# Compiles a program with a kernel by nvcc of the toolkit in $1, and runs it as far as that goes
# without a GPU: it prints the version that it was compiled for, as 12.4.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/prove.cu" <<'PROGRAM'
#include <cstdio>
__global__ void add(float *sum, float value) { atomicAdd(sum, value); }
int main() {
    std::printf("%d.%d\n", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 0;
    float *sum, result = 0;
    if (cudaMalloc(&sum, sizeof *sum) != cudaSuccess) return 2;
    cudaMemset(sum, 0, sizeof *sum);
    add<<<1, 32>>>(sum, 1);
    if (cudaMemcpy(&result, sum, sizeof result, cudaMemcpyDeviceToHost) != cudaSuccess) return 3;
    return result == 32 ? 0 : 4;
}
PROGRAM
"$1/bin/nvcc" -o "$folder/prove" "$folder/prove.cu"
"$folder/prove"
