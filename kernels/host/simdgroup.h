// Barriers, and Metal's functions of a simdgroup: a thread leaves what it gives in a slot, waits until
// its simdgroup has come to the same place, and takes what it asks for.
// a call each: they are not the kernel's own work, and long
#pragma clang attribute push( \
    __attribute__((no_sanitize("thread", "coverage"), noinline)), apply_to = function \
)

// the line that calls
#define HERE unsigned long here = __builtin_LINE()

inline void threadgroup_barrier(mem_flags flags, HERE) {
    check::arrive(check::GROUP_BARRIER, "threadgroup_barrier", here, uint(flags));
}

inline void simdgroup_barrier(mem_flags flags, HERE) {
    check::arrive(check::SIMD_BARRIER, "simdgroup_barrier", here, uint(flags));
}

namespace check {

// What the threads of this simdgroup gave at one operation.
struct Given {
    const Slot* slots;
    uint count;  // threads of the simdgroup

    template <typename T>
    T of(uint which) const {
        T value;
        __builtin_memcpy(&value, slots[which].bytes, sizeof(T));
        return value;
    }
};

template <typename T>
inline Given give(const T& mine, const char* name, Size here) {
    static_assert(sizeof(T) <= sizeof(Slot), "room for what a thread gives");
    const uint simdgroup = lane / WIDTH, own = lane % WIDTH;
    Slot* of_this = slots[simdgroup][lanes[lane].made % 2];
    __builtin_memcpy(of_this[own].bytes, &mine, sizeof(T));
    arrive(SIMD, name, here, 0);
    const uint rest = lanes_there - simdgroup * WIDTH;
    return {of_this, rest < WIDTH ? rest : WIDTH};
}

[[noreturn]] static void wrong_lane(What what, const char* name, Size asked, Size here) {
    Failure failure = {};
    failure.what = what;
    failure.name = name;
    failure.at = asked;
    failure.place = here;
    fail(failure);
}

template <typename T>
inline T taken(const Given& given, uint from, const char* name, Size here) {
    if (from >= given.count) {
        wrong_lane(NO_SUCH_LANE, name, from, here);
    }
    return given.of<T>(from);
}

// Halves are combined with halves, a lane's partner first the one 16 away: every lane gets the same.
template <typename T, typename Combine>
inline T reduced(T mine, Combine combine, const char* name, Size here) {
    const Given given = give(mine, name, here);
    T values[WIDTH];
    for (uint i = 0; i < given.count; ++i) {
        values[i] = given.of<T>(i);
    }
    for (uint half = WIDTH / 2; half; half /= 2) {
        for (uint i = 0; i < half && i + half < given.count; ++i) {
            values[i] = combine(values[i], values[i + half]);
        }
    }
    return values[0];
}

template <typename T>
struct Asked {
    T value;
    uint from;
};

// An argument that has to be the same in every thread.
template <typename T>
inline void uniform(const Given& given, uint mine, const char* name, Size here) {
    for (uint i = 0; i < given.count; ++i) {
        if (given.of<Asked<T>>(i).from != mine) {
            wrong_lane(NOT_UNIFORM, name, mine, here);
        }
    }
}

template <typename T>
inline T shuffled(T value, uint argument, bool same, int way, const char* name, Size here) {
    const Given given = give(Asked<T>{value, argument}, name, here);
    if (same) {
        uniform<T>(given, argument, name, here);
    }
    const uint own = lane % WIDTH;
    uint from = argument;
    if (way == 1) {
        from = own + argument < WIDTH ? own + argument : own;
    } else if (way == -1) {
        from = own >= argument ? own - argument : own;
    } else if (way == 2) {
        from = own ^ argument;
    }
    return taken<Asked<T>>(given, from, name, here).value;
}

template <typename T, typename Combine>
inline T prefix(T mine, T neutral, bool inclusive, Combine combine, const char* name, Size here) {
    const Given given = give(mine, name, here);
    T result = neutral;
    for (uint i = 0; i < lane % WIDTH + inclusive; ++i) {
        result = combine(result, given.of<T>(i));
    }
    return result;
}

inline bool vote(bool mine, bool all, const char* name, Size here) {
    const Given given = give(mine, name, here);
    uint yes = 0;
    for (uint i = 0; i < given.count; ++i) {
        yes += given.of<bool>(i);
    }
    return all ? yes == given.count : yes != 0;
}
}  // namespace check

#define REDUCTION(name, expression)                                                                \
    template <typename T>                                                                          \
    inline T name(T value, HERE) {                                                                 \
        return check::reduced(value, [](T a, T b) { return T(expression); }, #name, here);         \
    }
REDUCTION(simd_sum, a + b)
REDUCTION(simd_product, a * b)
REDUCTION(simd_max, max(a, b))
REDUCTION(simd_min, min(a, b))
REDUCTION(simd_or, a | b)
REDUCTION(simd_and, a & b)
REDUCTION(simd_xor, a ^ b)
#undef REDUCTION

#define SHUFFLE(name, same, way)                                                                   \
    template <typename T>                                                                          \
    inline T name(T value, ushort argument, HERE) {                                                \
        return check::shuffled(value, argument, same, way, #name, here);                           \
    }
SHUFFLE(simd_shuffle, false, 0)
SHUFFLE(simd_shuffle_xor, true, 2)
SHUFFLE(simd_shuffle_down, true, 1)
SHUFFLE(simd_shuffle_up, true, -1)
SHUFFLE(simd_broadcast, true, 0)
#undef SHUFFLE

template <typename T>
inline T simd_broadcast_first(T value, HERE) {
    return check::shuffled(value, 0, true, 0, "simd_broadcast_first", here);
}

template <typename T>
inline T simd_prefix_inclusive_sum(T value, HERE) {
    return check::prefix(
        value, T(0), true, [](T a, T b) { return T(a + b); }, "simd_prefix_inclusive_sum", here
    );
}

template <typename T>
inline T simd_prefix_exclusive_sum(T value, HERE) {
    return check::prefix(
        value, T(0), false, [](T a, T b) { return T(a + b); }, "simd_prefix_exclusive_sum", here
    );
}

inline bool simd_all(bool value, HERE) {
    return check::vote(value, true, "simd_all", here);
}

inline bool simd_any(bool value, HERE) {
    return check::vote(value, false, "simd_any", here);
}
#pragma clang attribute pop
