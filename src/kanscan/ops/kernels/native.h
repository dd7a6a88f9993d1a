// What the kernels share: a loop over tasks on several threads, and memory that a thread keeps between calls.
#pragma once

#include <cstdint>

// Call body(context, task) for every task below num_tasks, on at most num_threads threads.
extern "C" void kanscan_parallel(int64_t num_tasks, int64_t num_threads, void (*body)(void*, int64_t), void* context);

// Return memory of this thread, aligned to 64 bytes; the next call with the same slot (0..3) may return it again.
extern "C" float* kanscan_workspace(int slot, int64_t num_floats);

namespace {

template <class Body>
void parallel(int64_t num_tasks, int64_t num_threads, Body& body) {
    kanscan_parallel(
        num_tasks, num_threads, [](void* context, int64_t task) { (*static_cast<Body*>(context))(task); }, &body);
}

}  // namespace
