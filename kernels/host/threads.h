// The threads of a threadgroup, and a grid of threadgroups. Each thread runs until it is done or waits
// for others; when all of a simdgroup wait at the same operation they go on, and so do all of a
// threadgroup.
#pragma clang attribute push(__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)

namespace check {

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
                ++groups_run;
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
#pragma clang attribute pop
