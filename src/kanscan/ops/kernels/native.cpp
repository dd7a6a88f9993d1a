// Threads, memory and the question which instruction set this processor has. Compiled once, for the baseline.
#include "native.h"

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// The entry into an OpenMP runtime that is already in the process (torch's), or null. Calling it shares that runtime's
// threads; linking a second runtime would double them.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Team> team{nullptr};

struct Loop {
    std::atomic<int64_t> next{0};
    int64_t num_tasks;
    void (*body)(void*, int64_t);
    void* context;
};

// Threads take the next task from a counter, so the loop is complete whatever number of them the runtime grants.
void work(void* argument) {
    Loop& loop = *static_cast<Loop*>(argument);
    for (int64_t task; (task = loop.next.fetch_add(1)) < loop.num_tasks;) loop.body(loop.context, task);
}

struct Buffer {
    float* memory = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(memory); }
};

}  // namespace

// Counted up when the arguments of a kernel change, so that an old library is not called with new ones.
EXPORT int kanscan_interface() { return 7; }

EXPORT void kanscan_use_team(void* entry) { team = reinterpret_cast<Team>(entry); }

EXPORT void kanscan_parallel(int64_t num_tasks, int64_t num_threads, void (*body)(void*, int64_t), void* context) {
    Loop loop;
    loop.num_tasks = num_tasks;
    loop.body = body;
    loop.context = context;
    if (num_threads > num_tasks) num_threads = num_tasks;
    if (num_threads <= 1) return work(&loop);
    if (Team enter = team) return enter(work, &loop, static_cast<unsigned>(num_threads), 0);
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < num_threads; i++) threads.emplace_back(work, &loop);
    work(&loop);
    for (std::thread& thread : threads) thread.join();
}

EXPORT float* kanscan_workspace(int slot, int64_t num_floats) {
    static thread_local Buffer buffers[4];
    Buffer& buffer = buffers[slot];
    if (buffer.size < num_floats) {
        std::free(buffer.memory);
        buffer.size = (num_floats + 1023) / 1024 * 1024;
        buffer.memory = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(buffer.size) * sizeof(float)));
        if (!buffer.memory) std::abort();
    }
    return buffer.memory;
}

// 0: what every processor of this architecture has, 1: AVX2 with FMA, 2: AVX-512.
EXPORT int kanscan_instruction_set() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return 2;
    if (avx2) return 1;
#endif
    return 0;
}
