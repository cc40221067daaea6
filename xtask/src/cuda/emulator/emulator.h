// What the parts of the emulator share.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace emulator {

// A kernel that takes the addresses of its arguments, whose sizes in bytes are told with it.
using Kernel = void (*)(void **);
bool add(const char *name, Kernel kernel, std::vector<size_t> sizes);

// Does the work of a library now, or whenever the graph is launched that is being captured.
int queue(std::function<int()> work);

struct Index {
    unsigned x, y, z;
};

// The thread that is running, and what it belongs to.
struct Thread {
    Index thread, block, blocks, threads;
    unsigned number; // within the block
};
extern thread_local Thread *current;

// Waits until all threads of the block, or of the warp, have come here.
void block_barrier();
void warp_barrier();
// Gives `size` bytes to the warp and takes those of its lane `from`.
void exchange(void *value, size_t size, unsigned from);
// The lanes of the warp that say yes.
unsigned vote(bool value);

} // namespace emulator
