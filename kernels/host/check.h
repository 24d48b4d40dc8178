// What runs a kernel's threads one at a time and watches every access to memory: the beginning.
//
//     check.h       what Python is told, and how a thread's stack is left for another's
//     memory.h      what an access may be, and what bytes remember
//     threads.h     the threads of a threadgroup, and a grid of them
//     hooks.h       what clang's instrumentation calls
//     shim.h, functions.h, simdgroup.h, matrix.h     Metal's language
//
// A translation unit is all of these, a kernel's header and body, and `lane_main`, which calls the
// body as one thread. clang's instrumentation for ThreadSanitizer puts a call before every load and
// store; hooks.h defines these calls, and nothing of the sanitizer's own is linked.
#define CHECKED
#pragma clang attribute push(__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)

namespace check {

using Byte = unsigned char;
using Count = unsigned int;
using Size = unsigned long;
static_assert(sizeof(Size) == sizeof(void*) && sizeof(Size) == 8, "a processor of 64 bits");

constexpr int WIDTH = 32, MOST_LANES = 1024, MOST_SHARED = 32768, MOST_ARRAYS = 64;
constexpr int GUARD = 4096;

// --- what Python and this file say to each other; structures.py has the same ---

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

// One access, for counts.py.
struct Seen {
    Count group;  // counted from 0 in the order they ran
    unsigned short lane, size;
    Size at;
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
    Count watched;              // whether accesses are
    Array arrays[MOST_ARRAYS];
    Byte* stacks;               // MOST_LANES of stack_size, the lowest page of each unreadable
    Size stack_size;
    Size most_steps;
    void** arguments;           // of the kernel; see signature.py
    Seen* seen;                 // room for `room` reads of array `kept`, or null; `reads` came
    Size kept, room, reads;
    // how often each array was read and written, by the power of 2 that the width is
    Size times[MOST_ARRAYS][2][8];
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
static Count epoch, group_epoch, groups_run;
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

}  // namespace check
#pragma clang attribute pop
