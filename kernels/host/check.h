// Runs the threads of a kernel one at a time and watches every access to memory.
//
// A translation unit is this file, shim.h, functions.h, simdgroup.h, a kernel's header and body, and
// `lane_main`, which calls the body as one thread. clang's instrumentation for ThreadSanitizer puts a
// call before every load and store; these calls are defined here, and nothing of the sanitizer's own
// is linked. Every thread has a stack; `arrive` leaves it where a thread waits for others.
//
// What one byte of memory remembers is its last write and its last read: when, by which thread, from
// which place. Time is an epoch, which every barrier that lets threads go on moves forward.
#define CHECKED
#pragma clang attribute push(__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)

namespace check {

using Byte = unsigned char;
using Count = unsigned int;
using Size = unsigned long;
static_assert(sizeof(Size) == sizeof(void*) && sizeof(Size) == 8, "a processor of 64 bits");

constexpr int WIDTH = 32, MOST_LANES = 1024, MOST_SHARED = 32768, MOST_ARRAYS = 64;
constexpr int GUARD = 4096;

// --- what Python and this file say to each other; check.py has the same structures ---

enum Kind : Count { INPUT, OUTPUT, SHARED, TABLE };

struct Access {
    Count epoch;  // 0: never
    Count lane;   // or SEVERAL of a simdgroup, or of ALL
    Size place;   // an address of code, or a line
};

struct Array {
    Byte* begin;
    Size size;
    Kind kind;
    Count element;     // bytes of one
    Access* writes;    // one a byte; of INPUT and TABLE none
    Access* reads;
    const char* name;
};

enum What : Count {
    NOTHING, OUTSIDE, READ_ONLY, UNWRITTEN, RACE, ALIEN_RACE, DIVERGENT, ENDED, TOO_LONG, TOO_MUCH,
    NO_SUCH_LANE, NOT_UNIFORM, MISALIGNED, UNDEFINED, NEVER_WRITTEN
};

struct Failure {
    What what;
    Count lane, other;          // threads in the threadgroup; of `other` SEVERAL and ALL too
    Count group[3];             // the threadgroup
    Count array;                // of RACE and such
    Count writes, other_writes;
    Count size;
    Size at;                    // offset in the array, may be outside
    Size place, other_place;
    const char* name;           // of an operation, or of what is undefined
    const char* other_name;
};

struct Run {
    Count grid[3], dispatched[3];  // threads in all, and of a threadgroup
    Count inputs, outputs;
    Count fixed;                // arrays before the threadgroup's: inputs, outputs, tables
    Count count;                // all of them
    Array arrays[MOST_ARRAYS];
    Byte* stacks;               // MOST_LANES of stack_size, the lowest page of each unreadable
    Size stack_size;
    Size most_steps;
    void (*seen)(Count array, Size at, Count size, Count write, Count lane, Size place);
    void** arguments;           // of the kernel; see signature.py
    Failure failure;
};

// --- threads ---

enum State : Count { READY, WAITING, DONE };
enum Operation : Count { NONE, SIMD, SIMD_BARRIER, GROUP_BARRIER };

struct Lane {
    void* stack;  // where it goes on
    State state;
    Operation operation;
    const char* name;
    Size place;
    Count flags;
    Count made;  // operations so far
};

constexpr Count SEVERAL = 0x4000, ALL = 0x8000;
constexpr Count MEM_DEVICE = 1, MEM_THREADGROUP = 2;

static Run* run;
static Lane lanes[MOST_LANES];
static void* scheduler;
static Count lane, lanes_there;
static Size stack_begin, stack_size, steps;
static Array* last_array;

static Count group_position[3], group_size[3];
static Count epoch, group_epoch;
// by bit of mem_flags: the last barrier of the threadgroup, and of each simdgroup
static Count group_barrier[2], simd_barrier[MOST_LANES / WIDTH][2];

struct Slot {
    alignas(16) Byte bytes[64];
};
static Slot slots[MOST_LANES / WIDTH][2][WIDTH];

alignas(256) static Byte shared_memory[MOST_SHARED + MOST_ARRAYS * GUARD];
static Access shared_writes[sizeof shared_memory], shared_reads[sizeof shared_memory];
static Size shared_used;
// where the body declares the arrays after the fixed ones
static Size shared_places[MOST_ARRAYS];

// Keep this thread's registers on its stack, and go on with another one.
__attribute__((naked, noinline)) static void switch_stack(void** from, void* to) {
#if defined(__x86_64__)
    asm volatile(
        "pushq %%rbp\n pushq %%rbx\n pushq %%r12\n pushq %%r13\n pushq %%r14\n pushq %%r15\n"
        "movq %%rsp, (%%rdi)\n movq %%rsi, %%rsp\n"
        "popq %%r15\n popq %%r14\n popq %%r13\n popq %%r12\n popq %%rbx\n popq %%rbp\n ret\n" ::: "memory");
#elif defined(__aarch64__)
    asm volatile(
        "sub sp, sp, #160\n"
        "stp x19, x20, [sp]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n"
        "stp x25, x26, [sp, #48]\n stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"
        "stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n"
        "stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
        "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
        "ldp x19, x20, [sp]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n"
        "ldp x25, x26, [sp, #48]\n ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"
        "ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n"
        "ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
        "add sp, sp, #160\n ret\n" ::: "memory");
#else
#error "no switch between stacks for this processor"
#endif
}

// What the thread that runs did wrong; it does not go on.
[[noreturn]] static void fail(Failure failure) {
    run->failure = failure;
    run->failure.lane = lane;
    for (int axis = 0; axis < 3; ++axis) {
        run->failure.group[axis] = group_position[axis];
    }
    switch_stack(&lanes[lane].stack, scheduler);
    __builtin_trap();
}

// What the scheduler found.
static void found(What what, Count a, Count b) {
    Failure& failure = run->failure;
    failure = {};
    failure.what = what;
    failure.lane = a;
    failure.other = b;
    for (int axis = 0; axis < 3; ++axis) {
        failure.group[axis] = group_position[axis];
    }
    failure.place = lanes[a].place;
    failure.name = lanes[a].name;
    failure.other_place = lanes[b].place;
    failure.other_name = lanes[b].state == DONE ? nullptr : lanes[b].name;
}

// --- memory ---

inline Count simdgroup_of(Count who) {
    return who < MOST_LANES ? who / WIDTH : who == ALL ? ALL : who - SEVERAL;
}

// Whether a barrier stands between an access of this threadgroup and now.
inline bool ordered(const Access& was, Kind kind) {
    const int flag = kind == SHARED;
    const Count own = lane / WIDTH;
    return was.epoch < group_barrier[flag] ||
           (simdgroup_of(was.lane) == own && was.epoch < simd_barrier[own][flag]);
}

// Whether an access was another thread's, and nothing orders it and now.
inline bool races(const Access& was, Kind kind) {
    if (was.epoch < group_epoch) {
        return was.epoch != 0 && kind == OUTPUT;
    }
    return was.lane != lane && !ordered(was, kind);
}

[[noreturn]] static void race(
    const Access& was, bool was_write, const Array& array, Size at, Count size, bool write,
    Size place
) {
    Failure failure = {};
    failure.what = was.epoch < group_epoch ? ALIEN_RACE : RACE;
    failure.other = was.lane;
    failure.array = Count(&array - run->arrays);
    failure.writes = write;
    failure.other_writes = was_write;
    failure.size = size;
    failure.at = at;
    failure.place = place;
    failure.other_place = was.place;
    fail(failure);
}

[[noreturn]] static void wrong(
    What what, Count array, Size at, Count size, bool write, Size place
) {
    Failure failure = {};
    failure.what = what;
    failure.array = array;
    failure.writes = write;
    failure.size = size;
    failure.at = at;
    failure.place = place;
    fail(failure);
}

inline void step(Size place) {
    if (++steps > run->most_steps) {
        wrong(TOO_LONG, 0, 0, 0, false, place);
    }
}

static Array& array_at(const Byte* at, Count size, bool write, Size place) {
    Count nearest = 0;
    Size least = ~Size(0);
    for (Count i = 0; i < run->count; ++i) {
        Array& array = run->arrays[i];
        const Size offset = Size(at - array.begin);
        if (offset < array.size) {
            if (array.size - offset >= size) {
                last_array = &array;
                return array;
            }
            wrong(OUTSIDE, i, offset, size, write, place);
        }
        const Size away = at < array.begin ? Size(array.begin - at) : offset - array.size;
        if (away < least) {
            least = away;
            nearest = i;
        }
    }
    wrong(OUTSIDE, nearest, Size(at - run->arrays[nearest].begin), size, write, place);
}

static void remember(Array& array, Size offset, Count size, bool write, Size place) {
    for (Size at = offset; at < offset + size; ++at) {
        Access& written = array.writes[at];
        Access& read = array.reads[at];
        if (races(written, array.kind)) {
            race(written, true, array, at, size, write, place);
        }
        if (write) {
            if (races(read, array.kind)) {
                race(read, false, array, at, size, write, place);
            }
            written = {epoch, lane, place};
            continue;
        }
        if (written.epoch < (array.kind == SHARED ? group_epoch : 1)) {
            wrong(UNWRITTEN, Count(&array - run->arrays), at, size, write, place);
        }
        if (races(read, array.kind)) {
            const Count own = lane / WIDTH;
            read.lane = simdgroup_of(read.lane) == own ? SEVERAL + own : ALL;
            read.epoch = epoch;
        } else {
            read = {epoch, lane, place};
        }
    }
}

// Before `size` bytes are read or written.
inline void touch(const volatile void* address, Count size, bool write, Size place) {
    const Byte* at = (const Byte*)address;
    if (Size(at) - stack_begin < stack_size) {
        return;
    }
    Size offset = Size(at - last_array->begin);
    Array& array = offset < last_array->size && last_array->size - offset >= size
                       ? *last_array
                       : array_at(at, size, write, place);
    offset = Size(at - array.begin);
    if (run->seen) {
        run->seen(Count(&array - run->arrays), offset, size, write, lane, place);
    }
    if (array.writes) {
        remember(array, offset, size, write, place);
    } else if (write) {
        wrong(READ_ONLY, Count(&array - run->arrays), offset, size, write, place);
    }
}

template <Count size>
inline void aligned(const void* address, bool write, Size place) {
    if (Size(address) % size && Size(address) - stack_begin >= stack_size) {
        const Array& array = array_at((const Byte*)address, size, write, place);
        wrong(MISALIGNED, Count(&array - run->arrays), Size((Byte*)address - array.begin), size,
              write, place);
    }
    touch(address, size, write, place);
}

// --- a threadgroup ---

// Wait until all threads of the simdgroup, or of the threadgroup, have come here.
__attribute__((noinline)) static void arrive(
    Operation operation, const char* name, Size place, Count flags
) {
    Lane& own = lanes[lane];
    own.state = WAITING;
    own.operation = operation;
    own.name = name;
    own.place = place;
    own.flags = flags;
    ++own.made;
    step(place);
    switch_stack(&own.stack, scheduler);
}

// Memory of the threadgroup, declared at a line of the body.
static void* share(const char* name, Size size, Count element, Size place) {
    Size sum = size;
    for (Count i = run->fixed; i < run->count; ++i) {
        if (shared_places[i - run->fixed] == place && run->arrays[i].name == name) {
            return run->arrays[i].begin;
        }
        sum += run->arrays[i].size;
    }
    if (sum > MOST_SHARED || run->count == MOST_ARRAYS) {
        Failure failure = {};
        failure.what = TOO_MUCH;
        failure.name = name;
        failure.at = sum;
        failure.place = place;
        fail(failure);
    }
    const Size at = shared_used + GUARD;
    shared_used = (at + size + 255) / 256 * 256;
    shared_places[run->count - run->fixed] = place;
    run->arrays[run->count++] = {
        shared_memory + at, size, SHARED, element, shared_writes + at, shared_reads + at, name};
    return shared_memory + at;
}

static void lane_main();

static void lane_begins() {
    lane_main();
    lanes[lane].state = DONE;
    switch_stack(&lanes[lane].stack, scheduler);
    __builtin_trap();
}

static void go_on(Count which) {
    lane = which;
    stack_begin = Size(run->stacks) + which * stack_size;
    switch_stack(&scheduler, lanes[which].stack);
}

static void make_lanes() {
    for (Count i = 0; i < lanes_there; ++i) {
        Lane& made = lanes[i];
        made = {};
        void** top = (void**)(run->stacks + (i + 1) * stack_size - 64);
#if defined(__x86_64__)
        *--top = nullptr;
        *--top = (void*)lane_begins;
        top -= 6;
#else
        top -= 20;
        top[11] = (void*)lane_begins;
#endif
        made.stack = top;
    }
}

static bool together(Count from, Count to) {
    const Lane& first = lanes[from];
    for (Count i = from + 1; i < to; ++i) {
        const Lane& other = lanes[i];
        const bool same = other.state == first.state &&
                          (first.state == DONE ||
                           (other.operation == first.operation && other.place == first.place &&
                            other.flags == first.flags &&
                            // simdgroups come to a barrier after as many operations as they like
                            (i / WIDTH != from / WIDTH || other.made == first.made)));
        if (!same) {
            const bool ended = first.state == DONE || other.state == DONE;
            const Count a = first.state == DONE ? i : from;
            found(ended ? ENDED : DIVERGENT, a, a == i ? from : i);
            return false;
        }
    }
    return true;
}

static void release(Count from, Count to, Count (&barriers)[2]) {
    ++epoch;
    for (int flag = 0; flag < 2; ++flag) {
        if (lanes[from].flags >> flag & 1) {
            barriers[flag] = epoch;
        }
    }
    for (Count i = from; i < to; ++i) {
        lanes[i].state = READY;
    }
}

// Run a simdgroup until it is done or waits for the others.
static bool run_simdgroup(Count from, Count to) {
    Count nowhere[2];
    while (true) {
        for (Count i = from; i < to; ++i) {
            if (lanes[i].state == READY) {
                go_on(i);
                if (run->failure.what) {
                    return false;
                }
            }
        }
        if (!together(from, to)) {
            return false;
        }
        if (lanes[from].state == DONE || lanes[from].operation == GROUP_BARRIER) {
            return true;
        }
        const bool barrier = lanes[from].operation == SIMD_BARRIER;
        release(from, to, barrier ? simd_barrier[from / WIDTH] : nowhere);
    }
}

static bool run_threadgroup() {
    lanes_there = group_size[0] * group_size[1] * group_size[2];
    make_lanes();
    group_epoch = ++epoch;
    while (true) {
        for (Count from = 0; from < lanes_there; from += WIDTH) {
            const Count to = from + WIDTH < lanes_there ? from + WIDTH : lanes_there;
            if (!run_simdgroup(from, to)) {
                return false;
            }
        }
        if (!together(0, lanes_there)) {
            return false;
        }
        if (lanes[0].state == DONE) {
            return true;
        }
        release(0, lanes_there, group_barrier);
    }
}

static void run_grid() {
    const Count* grid = run->grid;
    Count most[3];
    for (int axis = 0; axis < 3; ++axis) {
        const Count asked = run->dispatched[axis];
        most[axis] = run->dispatched[axis] = asked < grid[axis] ? asked : grid[axis];
    }
    for (Count z = 0; z * most[2] < grid[2]; ++z) {
        for (Count y = 0; y * most[1] < grid[1]; ++y) {
            for (Count x = 0; x * most[0] < grid[0]; ++x) {
                const Count position[3] = {x, y, z};
                for (int axis = 0; axis < 3; ++axis) {
                    const Count begin = position[axis] * most[axis], rest = grid[axis] - begin;
                    group_position[axis] = position[axis];
                    group_size[axis] = rest < most[axis] ? rest : most[axis];
                }
                if (!run_threadgroup()) {
                    return;
                }
            }
        }
    }
}

// Fail where an element of an output was never written.
static void find_unwritten() {
    for (Count i = run->inputs; i < run->inputs + run->outputs; ++i) {
        const Array& array = run->arrays[i];
        for (Size at = 0; at < array.size; ++at) {
            if (!array.writes[at].epoch) {
                run->failure = {};
                run->failure.what = NEVER_WRITTEN;
                run->failure.array = i;
                run->failure.at = at;
                return;
            }
        }
    }
}

}  // namespace check

extern "C" {
#define RETURN check::Size(__builtin_return_address(0))
#define HOOKS(size)                                                                                \
    void __tsan_read##size(void* at) { check::aligned<size>(at, false, RETURN); }                  \
    void __tsan_write##size(void* at) { check::aligned<size>(at, true, RETURN); }                  \
    void __tsan_unaligned_read##size(void* at) { check::touch(at, size, false, RETURN); }          \
    void __tsan_unaligned_write##size(void* at) { check::touch(at, size, true, RETURN); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#undef HOOKS

void __tsan_init() {}
// in every block of instructions
void __sanitizer_cov_trace_pc() { check::step(RETURN); }
void* __tsan_memcpy(void* to, const void* from, unsigned long size) {
    if (size) {
        check::touch(from, check::Count(size), false, RETURN);
        check::touch(to, check::Count(size), true, RETURN);
    }
    return __builtin_memcpy(to, from, size);
}
void* __tsan_memmove(void* to, const void* from, unsigned long size) {
    if (size) {
        check::touch(from, check::Count(size), false, RETURN);
        check::touch(to, check::Count(size), true, RETURN);
    }
    return __builtin_memmove(to, from, size);
}
void* __tsan_memset(void* to, int value, unsigned long size) {
    if (size) {
        check::touch(to, check::Count(size), true, RETURN);
    }
    return __builtin_memset(to, value, size);
}

// What clang's checks for undefined behaviour call, with the line.
struct Source {
    const char* file;
    check::Count line, column;
};
static void undefined(const Source* at, const char* what) {
    check::Failure failure = {};
    failure.what = check::UNDEFINED;
    failure.name = what;
    failure.place = at->line;
    check::fail(failure);
}
void __ubsan_handle_out_of_bounds(const Source* at, void*) {
    undefined(at, "an index is outside of its array");
}
void __ubsan_handle_shift_out_of_bounds(const Source* at, void*, void*) {
    undefined(at, "a shift by as many bits as there are, or more");
}
void __ubsan_handle_divrem_overflow(const Source* at, void*, void*) {
    undefined(at, "a division by zero");
}

// Run a grid; run->failure says what was wrong.
__attribute__((visibility("default"))) void check_run(check::Run* asked) {
    using namespace check;
    run = asked;
    shared_used = 0;
    steps = 0;
    stack_size = run->stack_size;
    last_array = run->arrays;
    // what an earlier run wrote to threadgroup memory is of an earlier epoch
    run_grid();
    if (!run->failure.what) {
        find_unwritten();
    }
}

// Where this library lies: places of a failure are counted from here.
#if defined(__APPLE__)
extern const char __dso_handle;
__attribute__((visibility("default"))) const void* check_base() { return &__dso_handle; }
#else
extern const char __ehdr_start __attribute__((visibility("hidden")));
__attribute__((visibility("default"))) const void* check_base() { return &__ehdr_start; }
#endif
}

#pragma clang attribute pop
