// The kernels as a process: allocates memory, runs launches and hands memory back, as it is told on its standard input.
//
// Memory is filled with something that is not a number, each piece is an allocation of its own, and so is a block's
// shared memory: with the address sanitizer a step beyond any of them ends the process with a report.
//
// Requests (all integers little-endian): `a` length u64 -> address u64; `w` address u64, length u64, words;
// `r` address u64, length u64 -> words; `l` name length u64, name, blocks x, blocks y, threads, shared bytes, order,
// number of arguments (u64 each), arguments (u64 each) -> one byte, 1 if there is such a kernel with so many arguments.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <string>
#include <utility>
#include <vector>

#include "../kernels/all.cu"

Dim threadIdx, blockIdx, blockDim, gridDim;
float* shared_memory;

namespace {

// The sanitizer goes over a whole stack at every switch.
constexpr size_t STACK = 16 * 1024;

enum State { RUNS, WAITS_FOR_WARP, WAITS_FOR_BLOCK, DONE };

struct Fiber {
    ucontext_t context;
    State state;
    // What it leaves for its warp, in turns: who is behind a barrier may still read what was left before it.
    unsigned turn;
};

struct Launch {
    void (*call)(const uint64_t*);
    const uint64_t* args;
};

std::vector<Fiber> fibers;
std::vector<char> stacks;
constexpr int MOST_LEFT = 6;
std::vector<unsigned> left[2];
ucontext_t scheduler;
unsigned current;
Launch launch;

void run_fiber() {
    launch.call(launch.args);
    fibers[current].state = DONE;
    swapcontext(&fibers[current].context, &scheduler);
}

// Until the scheduler lets it go on.
void wait(State state) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
    swapcontext(&fiber.context, &scheduler);
}

// Whether all threads from `first` on, up to `last`, are in that state.
bool are_all(unsigned first, unsigned last, State state) {
    for (unsigned i = first; i < last; i++)
        if (fibers[i].state != state) return false;
    return true;
}

// Lets those go on that have waited for the last of them; false if there are none.
bool release(unsigned threads) {
    bool any = false;
    for (unsigned first = 0; first < threads; first += 32) {
        unsigned last = first + 32 < threads ? first + 32 : threads;
        if (!are_all(first, last, WAITS_FOR_WARP)) continue;
        any = true;
        for (unsigned i = first; i < last; i++) fibers[i].state = RUNS;
    }
    if (any || !are_all(0, threads, WAITS_FOR_BLOCK)) return any;
    for (Fiber& fiber : fibers) fiber.state = RUNS;
    return true;
}

// One block; order 0 runs its threads upwards between barriers, 1 downwards.
void run_block(unsigned threads, uint64_t order) {
    fibers.resize(threads);
    stacks.resize(threads * STACK);
    for (auto& turn : left) turn.resize((threads + 31) / 32 * 32 * MOST_LEFT);
    for (unsigned i = 0; i < threads; i++) {
        getcontext(&fibers[i].context);
        fibers[i].context.uc_stack.ss_sp = stacks.data() + i * STACK;
        fibers[i].context.uc_stack.ss_size = STACK;
        fibers[i].context.uc_link = nullptr;
        fibers[i].state = RUNS;
        fibers[i].turn = 0;
        makecontext(&fibers[i].context, run_fiber, 0);
    }
    do {
        for (unsigned i = 0; i < threads; i++) {
            current = order == 0 ? i : threads - 1 - i;
            if (fibers[current].state != RUNS) continue;
            threadIdx = {current, 0};
            swapcontext(&scheduler, &fibers[current].context);
        }
    } while (release(threads));
    if (are_all(0, threads, DONE)) return;
    fprintf(stderr, "emulation: some of %u threads missed a barrier, or an instruction of their warp\n", threads);
    abort();
}

template <class T>
T argument(const uint64_t* arg) {
    T value;
    memcpy(&value, arg, sizeof value);
    return value;
}

template <auto KERNEL, class... A, size_t... I>
void call_with(void (*)(A...), const uint64_t* args, std::index_sequence<I...>) {
    KERNEL(argument<A>(args + I)...);
}

template <class... A>
constexpr size_t arity(void (*)(A...)) {
    return sizeof...(A);
}

template <auto KERNEL>
void call(const uint64_t* args) {
    call_with<KERNEL>(KERNEL, args, std::make_index_sequence<arity(KERNEL)>());
}

struct Entry {
    const char* name;
    size_t n_args;
    void (*call)(const uint64_t*);
};

#define KERNEL(name) {#name, arity(&name), &call<&name>},
const Entry entries[] = {
#include "../kernels/list.inc"
};
#undef KERNEL

uint64_t number() {
    uint64_t value;
    if (fread(&value, sizeof value, 1, stdin) != 1) exit(0);
    return value;
}

void reply(const void* data, size_t n) {
    fwrite(data, 1, n, stdout);
    fflush(stdout);
}

bool run_launch() {
    std::string name(number(), ' ');
    if (!name.empty() && fread(&name[0], name.size(), 1, stdin) != 1) exit(1);
    gridDim.x = number();
    gridDim.y = number();
    unsigned threads = number();
    size_t shared_bytes = number();
    uint64_t order = number();
    std::vector<uint64_t> args(number());
    for (uint64_t& arg : args) arg = number();
    const Entry* entry = nullptr;
    for (const Entry& candidate : entries)
        if (name == candidate.name) entry = &candidate;
    if (!entry || entry->n_args != args.size()) return false;
    launch = {entry->call, args.data()};
    blockDim = {threads, 1};
    for (unsigned y = 0; y < gridDim.y; y++) {
        for (unsigned x = 0; x < gridDim.x; x++) {
            blockIdx = {x, y};
            shared_memory = (float*)malloc(shared_bytes);
            memset(shared_memory, 0xFF, shared_bytes);
            run_block(threads, order);
            free(shared_memory);
        }
    }
    return true;
}

}  // namespace

void __syncthreads() { wait(WAITS_FOR_BLOCK); }

const unsigned* exchange(const unsigned* own, int n) {
    std::vector<unsigned>& all = left[fibers[current].turn++ % 2];
    memcpy(&all[n * current], own, n * sizeof *own);
    wait(WAITS_FOR_WARP);
    return &all[n * (current / 32 * 32)];
}

int main() {
    for (;;) {
        int request = getchar();
        if (request == EOF) return 0;
        if (request == 'a') {
            uint64_t length = number();
            float* memory = (float*)malloc(4 * length);
            memset(memory, 0xFF, 4 * length);
            uint64_t address = (uint64_t)memory;
            reply(&address, sizeof address);
        } else if (request == 'w') {
            char* memory = (char*)number();
            uint64_t length = number();
            if (length > 0 && fread(memory, 4, length, stdin) != length) return 1;
        } else if (request == 'r') {
            char* memory = (char*)number();
            uint64_t length = number();
            reply(memory, 4 * length);
        } else if (request == 'l') {
            char found = run_launch();
            reply(&found, 1);
        } else {
            fprintf(stderr, "emulation: no request %d\n", request);
            return 1;
        }
    }
}
