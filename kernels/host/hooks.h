// What clang's instrumentation calls: for every load and store, for every block of instructions, and
// where behaviour is undefined; and what Python calls.
#pragma clang attribute push(__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)

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

// What a function calls that finds the end of its part of the stack overwritten.
[[noreturn]] void __stack_chk_fail() {
    check::Failure failure = {};
    failure.what = check::UNDEFINED;
    failure.name = "a thread's own array was written outside";
    failure.place = RETURN;
    check::fail(failure);
}

// Run a grid; run->failure says what was wrong.
__attribute__((visibility("default"))) void check_run(check::Run* asked) {
    using namespace check;
    run = asked;
    shared_used = 0;
    steps = 0;
    groups_run = 0;
    stack_size = run->stack_size;
    last_array = run->arrays;
    // what an earlier run wrote to threadgroup memory is of an earlier epoch
    run_grid();
    if (!run->failure.what && run->watched) {
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
