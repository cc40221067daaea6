// NVIDIA's driver, as far as Limpid calls it, on the CPU. Memory is the host's: it is filled with NaN when it
// is handed out, and a page that may not be touched follows it. A stream does its work at once, one with a priority
// only when something waits for it. What a graph captures is done when the graph is launched; memory that it allocates is
// there from the capture on, and filled with NaN by each launch.
#include "emulator.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

namespace emulator {

// Fibers: a stack for each thread of a block.
extern "C" void limpid_switch(void **from, void *to);
asm(R"(
    .text
    .globl limpid_switch
    .type limpid_switch, @function
limpid_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

enum class Wait { None, Warp, Block, Done };

struct Fiber {
    Thread self;
    Wait wait;
    void *stack_at;
    char *stack;
    // what it gives to its warp, in turns
    alignas(16) char given[2][16];
    int turn;
};

constexpr size_t STACK = 128 << 10;

struct Machine {
    std::vector<Fiber> fibers;
    void *home = nullptr;
    Fiber *running = nullptr;
    Kernel kernel = nullptr;
    void **args = nullptr;
    size_t count = 0;
    std::mt19937 order{1};
};

thread_local Thread *current = nullptr;
static thread_local Machine machine;

struct Function {
    std::string name;
    Kernel kernel;
    std::vector<size_t> sizes;
};

static std::map<std::string, Function> &kernels() {
    static std::map<std::string, Function> all;
    return all;
}

bool add(const char *name, Kernel kernel, std::vector<size_t> sizes) {
    // modules are not told apart
    if (!kernels().emplace(name, Function{name, kernel, sizes}).second) {
        fprintf(stderr, "emulator: two kernels are called %s\n", name);
        abort();
    }
    return true;
}

static void yield(Wait wait) {
    Fiber *fiber = machine.running;
    fiber->wait = wait;
    limpid_switch(&fiber->stack_at, machine.home);
}

void block_barrier() { yield(Wait::Block); }
void warp_barrier() { yield(Wait::Warp); }

void exchange(void *value, size_t size, unsigned from) {
    Fiber *self = machine.running;
    if (size > sizeof self->given[0]) abort();
    self->turn ^= 1;
    memcpy(self->given[self->turn], value, size);
    warp_barrier();
    size_t lane = self->self.number / 32 * 32 + from % 32;
    if (lane < machine.count) memcpy(value, machine.fibers[lane].given[self->turn], size);
}

unsigned vote(bool value) {
    Fiber *self = machine.running;
    self->turn ^= 1;
    self->given[self->turn][0] = value;
    warp_barrier();
    unsigned votes = 0;
    size_t first = self->self.number / 32 * 32;
    for (size_t lane = 0; lane < 32 && first + lane < machine.count; lane++) {
        const Fiber &other = machine.fibers[first + lane];
        if (other.wait != Wait::Done && other.given[self->turn][0]) votes |= 1u << lane;
    }
    return votes;
}

extern "C" void limpid_fiber_main() {
    machine.kernel(machine.args);
    yield(Wait::Done);
}

static void start(Fiber &fiber) {
    if (!fiber.stack) {
        fiber.stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (fiber.stack == MAP_FAILED) abort();
    }
    // a return address for `limpid_switch`, six registers below it, and the alignment of a call
    void **top = (void **)(fiber.stack + STACK - 72);
    top[0] = nullptr;
    top[-1] = (void *)limpid_fiber_main;
    for (int i = 2; i <= 7; i++) top[-i] = nullptr;
    fiber.stack_at = top - 7;
    fiber.wait = Wait::None;
    fiber.turn = 0;
}

static void resume(Fiber &fiber) {
    machine.running = &fiber;
    current = &fiber.self;
    limpid_switch(&machine.home, fiber.stack_at);
}

static void run_block(const std::string &name) {
    size_t count = machine.count, warps = (count + 31) / 32;
    std::vector<size_t> order(count), turns(warps);
    for (size_t w = 0; w < warps; w++) turns[w] = w;
    std::shuffle(turns.begin(), turns.end(), machine.order);
    for (size_t left = count; left > 0;) {
        for (size_t warp : turns) {
            size_t first = warp * 32, last = std::min(first + 32, count);
            std::vector<size_t> lanes;
            for (bool again = true; again;) {
                lanes.clear();
                for (size_t i = first; i < last; i++)
                    if (machine.fibers[i].wait == Wait::None) lanes.push_back(i);
                std::shuffle(lanes.begin(), lanes.end(), machine.order);
                for (size_t i : lanes) {
                    resume(machine.fibers[i]);
                    if (machine.fibers[i].wait == Wait::Done) left--;
                }
                again = false;
                bool in_warp = false, in_block = false;
                for (size_t i = first; i < last; i++) {
                    in_warp |= machine.fibers[i].wait == Wait::Warp;
                    in_block |= machine.fibers[i].wait == Wait::Block;
                }
                if (in_warp && in_block) {
                    fprintf(stderr, "emulator: kernel %s: threads of a warp wait at different barriers\n", name.c_str());
                    abort();
                }
                if (in_warp) {
                    for (size_t i = first; i < last; i++)
                        if (machine.fibers[i].wait == Wait::Warp) machine.fibers[i].wait = Wait::None;
                    again = true;
                }
            }
        }
        bool done = false, waits = false;
        for (size_t i = 0; i < count; i++) {
            done |= machine.fibers[i].wait == Wait::Done;
            waits |= machine.fibers[i].wait == Wait::Block;
        }
        if (done && waits) {
            fprintf(stderr, "emulator: kernel %s: some threads left before a barrier\n", name.c_str());
            abort();
        }
        for (size_t i = 0; i < count; i++)
            if (machine.fibers[i].wait == Wait::Block) machine.fibers[i].wait = Wait::None;
    }
}

using Work = std::function<int()>;

// Memory that a graph allocates: whether a launch has left it allocated.
struct Owned {
    size_t size;
    bool held;
};
struct Graph {
    std::vector<Work> work;
    std::shared_ptr<std::map<uint64_t, Owned>> owned = std::make_shared<std::map<uint64_t, Owned>>();
    ~Graph();
};
struct Stream {
    bool at_once;
    std::vector<Work> waiting;
    size_t done = 0;
};
struct Event {
    Stream *stream = nullptr;
    size_t after = 0;
};

// What is captured by a thread, and whether it was refused something meanwhile.
struct Capture {
    Stream *stream = nullptr;
    Graph *graph = nullptr;
    bool refused = false;
};
static thread_local Capture capture;

enum {
    INVALID = 1,
    OUT_OF_MEMORY = 2,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    NOT_WHILE_CAPTURING = 900,
    CAPTURE_REFUSED = 901
};

// A kernel whose launch of some number goes wrong, as LIMPID_EMULATED_FAULT=NAME:NUMBER says: after that nothing works.
static int fault = 0;
static void meet_fault(const std::string &kernel) {
    static const std::string wanted = getenv("LIMPID_EMULATED_FAULT") ? getenv("LIMPID_EMULATED_FAULT") : "";
    static std::atomic<long> seen{0};
    size_t colon = wanted.find(':');
    if (colon == std::string::npos || kernel != wanted.substr(0, colon)) return;
    if (++seen == atol(wanted.c_str() + colon + 1)) fault = ILLEGAL_ADDRESS;
}

static bool is_captured(void *stream) { return capture.stream && capture.stream == stream; }

// Answers a call that a capture does not survive.
static int refuse(const char *what) {
    if (!capture.stream) return 0;
    fprintf(stderr, "emulator: %s while a graph is captured\n", what);
    capture.refused = true;
    return NOT_WHILE_CAPTURING;
}

static int queue_on(void *to, Work work) {
    if (fault) return fault;
    Stream *stream = (Stream *)to;
    if (is_captured(stream)) {
        capture.graph->work.push_back(std::move(work));
        return 0;
    }
    if (!stream || stream->at_once) return work();
    stream->waiting.push_back(std::move(work));
    return 0;
}

int queue(Work work) { return queue_on(capture.stream, std::move(work)); }

static int catch_up(Stream *stream, size_t until) {
    for (; stream && stream->done < until; stream->done++) {
        Work work = std::move(stream->waiting[stream->done]);
        if (int error = work()) return error;
    }
    return 0;
}

static std::mutex memory;
struct Block {
    char *base;
    size_t mapped, size;
};
static std::map<uint64_t, Block> blocks;
static size_t held = 0, most = 0;

static const size_t CAPACITY = [] {
    const char *text = getenv("LIMPID_EMULATED_MEMORY");
    return text ? strtoull(text, nullptr, 10) : (size_t)16 << 30;
}();

static int allocate(uint64_t *at, size_t size) {
    if (fault) return fault;
    const size_t page = 4096;
    size_t body = (std::max<size_t>(size, 1) + page - 1) / page * page;
    std::lock_guard<std::mutex> lock(memory);
    if (held + size > CAPACITY) return OUT_OF_MEMORY;
    char *base = (char *)mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(base + body, page, PROT_NONE);
    memset(base, 0xff, body);
    // the last element ends where the forbidden page begins, as far as vectors of 16 bytes allow
    uint64_t address = (uint64_t)(base + body - size) & ~(uint64_t)15;
    blocks[address] = {base, body + page, size};
    held += size;
    most = std::max(most, held);
    *at = address;
    return 0;
}

static int release(uint64_t at) {
    std::lock_guard<std::mutex> lock(memory);
    auto found = blocks.find(at);
    if (found == blocks.end()) return INVALID;
    Block block = found->second;
    const char *end = (char *)at + block.size, *last = block.base + block.mapped - 4096;
    for (const char *c = end; c < last; c++)
        if ((unsigned char)*c != 0xff) {
            fprintf(stderr, "emulator: something was written %zd bytes behind a buffer of %zu\n", c - end, block.size);
            abort();
        }
    for (const char *c = block.base; c < (char *)at; c++)
        if ((unsigned char)*c != 0xff) {
            fprintf(stderr, "emulator: something was written before a buffer of %zu bytes\n", block.size);
            abort();
        }
    held -= block.size;
    munmap(block.base, block.mapped);
    blocks.erase(found);
    return 0;
}

Graph::~Graph() {
    if (owned.use_count() > 1) return;
    for (auto &[at, one] : *owned) release(at);
}

// The graphs whose memory there is, to tell what is theirs.
static std::vector<std::weak_ptr<std::map<uint64_t, Owned>>> graphs;

static std::mutex graphs_lock;

static Owned *owned(uint64_t at) {
    std::lock_guard<std::mutex> lock(graphs_lock);
    for (auto &graph : graphs)
        if (auto all = graph.lock())
            if (auto found = all->find(at); found != all->end()) return &found->second;
    return nullptr;
}

} // namespace emulator

using namespace emulator;

#define API extern "C" __attribute__((visibility("default"))) int

API cuInit(unsigned) { return 0; }
API cuDriverGetVersion(int *version) { *version = 13000; return 0; }
API cuDeviceGetCount(int *count) { *count = 1; return 0; }
API cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal == 0 ? 0 : 101; }
API cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "emulator"); return 0; }
API cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = CAPACITY; return 0; }
API cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 75: *value = 9; break;    // capability, major
    case 76: *value = 0; break;    // minor
    case 115: *value = 1; break;   // memory pools
    case 16: *value = 4; break;    // multiprocessors
    case 10: *value = 32; break;   // warp
    case 1: *value = 1024; break;  // threads of a block
    case 8: *value = 48 << 10; break; // shared memory of a block
    case 97: *value = 96 << 10; break; // at most
    default: *value = 0;
    }
    return 0;
}
static thread_local void *context = nullptr;
static int a_context;
API cuDevicePrimaryCtxRetain(void **out, int) { *out = &a_context; return 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxSetCurrent(void *c) { context = c; return 0; }
API cuCtxGetCurrent(void **c) { *c = context; return 0; }
API cuCtxSynchronize() { return refuse("the device was waited for"); }
API cuStreamCreate(void **out, unsigned) { *out = new Stream{true}; return 0; }
API cuStreamCreateWithPriority(void **out, unsigned, int) { *out = new Stream{false}; return 0; }
API cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
API cuStreamDestroy_v2(void *stream) { return catch_up((Stream *)stream, ((Stream *)stream)->waiting.size()); }
API cuStreamSynchronize(void *stream) {
    if (is_captured(stream)) return refuse("a stream was waited for");
    if (fault) return fault;
    return stream ? catch_up((Stream *)stream, ((Stream *)stream)->waiting.size()) : 0;
}
API cuStreamWaitEvent(void *stream, void *event, unsigned) {
    if (is_captured(stream)) return refuse("an event was waited for");
    return catch_up(((Event *)event)->stream, ((Event *)event)->after);
}
API cuStreamQuery(void *) { return 0; }
API cuEventCreate(void **out, unsigned) { *out = new Event(); return 0; }
API cuEventRecord(void *event, void *stream) {
    if (is_captured(stream)) return refuse("an event was recorded");
    *(Event *)event = {(Stream *)stream, stream ? ((Stream *)stream)->waiting.size() : 0};
    return 0;
}
API cuEventSynchronize(void *event) { return catch_up(((Event *)event)->stream, ((Event *)event)->after); }
API cuEventQuery(void *) { return 0; }
API cuEventDestroy_v2(void *event) { delete (Event *)event; return 0; }
API cuEventElapsedTime(float *ms, void *, void *) { *ms = 0; return 0; }
API cuEventElapsedTime_v2(float *ms, void *, void *) { *ms = 0; return 0; }

API cuStreamBeginCapture_v2(void *stream, int) {
    if (capture.stream) return INVALID;
    capture = {(Stream *)stream, new Graph(), false};
    return 0;
}
API cuStreamIsCapturing(void *stream, int *status) {
    *status = !is_captured(stream) ? 0 : capture.refused ? 2 : 1;
    return 0;
}
API cuStreamEndCapture(void *stream, void **out) {
    if (!is_captured(stream)) return INVALID;
    Capture ended = std::exchange(capture, Capture());
    *out = nullptr;
    if (ended.refused) {
        delete ended.graph;
        return CAPTURE_REFUSED;
    }
    *out = ended.graph;
    return 0;
}
API cuGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) {
    // what a launch leaves allocated is freed by the next
    if (flags != 1) return INVALID;
    *out = new Graph(*(Graph *)graph);
    return 0;
}
API cuGraphUpload(void *, void *) { return 0; }
API cuGraphLaunch(void *graph, void *stream) {
    if (is_captured(stream)) return refuse("a graph was launched");
    for (auto &work : ((Graph *)graph)->work)
        if (int error = work()) return error;
    return 0;
}
API cuGraphExecDestroy(void *graph) { delete (Graph *)graph; return 0; }
API cuGraphDestroy(void *graph) { delete (Graph *)graph; return 0; }
API cuDeviceGetDefaultMemPool(void **pool, int) { *pool = &a_context; return 0; }
API cuDeviceGetMemPool(void **pool, int) { *pool = &a_context; return 0; }
API cuMemPoolSetAttribute(void *, int attribute, void *) {
    std::lock_guard<std::mutex> lock(memory);
    if (attribute == 8) most = held; // the most that was used
    return 0;
}
API cuMemPoolGetAttribute(void *, int attribute, void *value) {
    std::lock_guard<std::mutex> lock(memory);
    *(uint64_t *)value = attribute == 6 || attribute == 8 ? most : held;
    return 0;
}
API cuMemPoolTrimTo(void *, size_t) { return 0; }
API cuDeviceGraphMemTrim(int) { return 0; }
API cuMemGetInfo_v2(size_t *left, size_t *total) {
    std::lock_guard<std::mutex> lock(memory);
    *total = CAPACITY;
    *left = CAPACITY - held;
    return 0;
}
API cuMemAllocAsync(uint64_t *at, size_t size, void *stream) {
    if (int error = allocate(at, size)) return error;
    if (!is_captured(stream)) return 0;
    if (capture.graph->owned->empty()) {
        std::lock_guard<std::mutex> lock(graphs_lock);
        graphs.push_back(capture.graph->owned);
    }
    (*capture.graph->owned)[*at] = {size, false};
    capture.graph->work.push_back([at = *at, size] {
        memset((void *)at, 0xff, size);
        owned(at)->held = true;
        return 0;
    });
    return 0;
}
API cuMemAlloc_v2(uint64_t *at, size_t size) {
    if (int error = refuse("memory was allocated outside the stream")) return error;
    return allocate(at, size);
}
API cuMemFreeAsync(uint64_t at, void *stream) {
    Owned *one = owned(at);
    if (is_captured(stream)) {
        if (!one) return refuse("memory of before was freed");
        capture.graph->work.push_back([at] {
            Owned *one = owned(at);
            memset((void *)at, 0xff, one->size);
            one->held = false;
            return 0;
        });
        return 0;
    }
    if (!one) return release(at);
    if (!one->held) return INVALID;
    one->held = false;
    memset((void *)at, 0xff, one->size);
    return 0;
}
API cuMemFree_v2(uint64_t at) { return release(at); }
API cuMemHostAlloc(void **at, size_t size, unsigned) { *at = malloc(size); return *at ? 0 : OUT_OF_MEMORY; }
API cuMemFreeHost(void *at) { free(at); return 0; }
API cuMemsetD8Async(uint64_t at, unsigned char value, size_t size, void *stream) {
    return queue_on(stream, [=] {
        memset((void *)at, value, size);
        return 0;
    });
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    if (is_captured(stream)) return refuse("something was uploaded");
    return queue_on(stream, [=] {
        memcpy((void *)to, from, size);
        return 0;
    });
}
API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    if (is_captured(stream)) return refuse("something was fetched");
    return queue_on(stream, [=] {
        memcpy(to, (void *)from, size);
        return 0;
    });
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *stream) {
    return queue_on(stream, [=] {
        memmove((void *)to, (void *)from, size);
        return 0;
    });
}
API cuModuleLoadData(void **module, const void *) {
    *module = &a_context;
    return refuse("kernels were loaded");
}
API cuModuleUnload(void *) { return 0; }
API cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = kernels().find(name);
    if (found == kernels().end()) {
        fprintf(stderr, "emulator: no kernel %s\n", name);
        return NOT_FOUND;
    }
    *function = &found->second;
    return 0;
}
API cuFuncSetAttribute(void *, int, int) { return 0; }
API cuFuncGetAttribute(int *value, int, void *) { *value = 0; return 0; }

static int launch(const Function &f, const Index &blocks, const Index &shape, void **args) {
    size_t threads = (size_t)shape.x * shape.y * shape.z;
    Machine &m = machine;
    if (m.fibers.size() < threads) m.fibers.resize(threads);
    m.kernel = f.kernel;
    m.args = args;
    m.count = threads;
    for (unsigned z = 0; z < blocks.z; z++)
        for (unsigned y = 0; y < blocks.y; y++)
            for (unsigned x = 0; x < blocks.x; x++) {
                for (size_t i = 0; i < threads; i++) {
                    Fiber &fiber = m.fibers[i];
                    start(fiber);
                    unsigned t = (unsigned)i;
                    Index thread = {t % shape.x, t / shape.x % shape.y, t / (shape.x * shape.y)};
                    fiber.self = {thread, {x, y, z}, blocks, shape, t};
                }
                run_block(f.name);
            }
    current = nullptr;
    return 0;
}

API cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, void *stream, void **args, void **) {
    Index blocks = {gx, gy, gz}, shape = {bx, by, bz};
    size_t threads = (size_t)bx * by * bz;
    if (!gx || !gy || !gz || !threads || threads > 1024 || gy > 65535 || gz > 65535) return INVALID;
    meet_fault(f->name);
    // the launch itself does not know yet
    if (fault) return 0;
    if (!is_captured(stream)) return launch(*f, blocks, shape, args);
    // arguments are copied by the launch; 16 bytes suffice for the alignment of any
    std::vector<std::shared_ptr<void>> copies;
    for (size_t i = 0; i < f->sizes.size(); i++) {
        copies.emplace_back(aligned_alloc(16, (f->sizes[i] + 15) / 16 * 16), free);
        memcpy(copies[i].get(), args[i], f->sizes[i]);
    }
    return queue_on(stream, [=] {
        std::vector<void *> at;
        for (auto &copy : copies) at.push_back(copy.get());
        return launch(*f, blocks, shape, at.data());
    });
}

static const char *error_name(int error) {
    switch (error) {
    case OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
    case NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
    case ILLEGAL_ADDRESS: return "CUDA_ERROR_ILLEGAL_ADDRESS";
    case NOT_WHILE_CAPTURING: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    case CAPTURE_REFUSED: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
    default: return "CUDA_ERROR";
    }
}
API cuGetErrorName(int error, const char **text) { *text = error_name(error); return 0; }
API cuGetErrorString(int error, const char **text) { *text = error_name(error); return 0; }
