/* A library that answers as NVML does, for machines without GPUs.

   Two GPUs. NVML_TROUBLE says what is wrong with the second: "lost", "unsupported", "denied",
   "hang", "crash"; or with the whole: "no-driver", "no-count", "simulated". */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NO_PERMISSION = 4, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} PciInfo;

typedef struct {
    unsigned long long total, free, used;
} Memory;

static char gpus[2];

static int trouble_is(const char *trouble) {
    const char *wanted = getenv("NVML_TROUBLE");
    return wanted && strcmp(wanted, trouble) == 0;
}

static int index_of(void *gpu) { return (int)((char *)gpu - gpus); }

/* What is read of a GPU while it works, and fails in the second one's trouble. */
static int state_of(void *gpu) {
    if (index_of(gpu) == 0)
        return SUCCESS;
    if (trouble_is("hang"))
        sleep(600);
    if (trouble_is("crash"))
        abort();
    if (trouble_is("unsupported"))
        return NOT_SUPPORTED;
    return trouble_is("denied") ? NO_PERMISSION : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return trouble_is("no-driver") ? DRIVER_NOT_LOADED : SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    snprintf(version, size, trouble_is("simulated") ? "550.54.15-simulated" : "550.54.15");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return trouble_is("no-count") ? 999 : SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) {
    *gpu = &gpus[index];
    return index == 1 && trouble_is("lost") ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetUUID(void *gpu, char *uuid, unsigned size) {
    snprintf(uuid, size, "GPU-00000000-0000-0000-0000-00000000000%d", index_of(gpu));
    return SUCCESS;
}

int nvmlDeviceGetName(void *gpu, char *name, unsigned size) {
    (void)gpu;
    snprintf(name, size, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(void *gpu, PciInfo *info) {
    memset(info, 0, sizeof *info);
    snprintf(info->busId, sizeof info->busId, "00000000:%02X:00.0", 0x1b + index_of(gpu));
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *gpu, Memory *memory) {
    (void)gpu;
    memory->total = 85520809984ULL;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *celsius) {
    (void)sensor;
    *celsius = 41;
    return state_of(gpu);
}

int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts) {
    *milliwatts = 71500;
    return state_of(gpu);
}

int nvmlDeviceGetTotalEccErrors(void *gpu, int type, int counter, unsigned long long *count) {
    /* 1: uncorrected; 0: volatile (nvml.h, nvmlMemoryErrorType_t and nvmlEccCounterType_t) */
    *count = type == 1 && counter == 0 ? 3 : 999;
    return state_of(gpu);
}
