// What an access may be, and what every byte of outputs and threadgroup memory remembers: its last
// write and its last read, when, by which thread, from which place. Time is an epoch, which every
// barrier that lets threads go on moves forward; an access is before another if a barrier for this
// memory stands between, of the threadgroup, or of the simdgroup that both belong to.
#pragma clang attribute push(__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)

namespace check {

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

static void see(Count array, Size offset, Count size, bool write) {
    const int power = 31 - __builtin_clz(size);
    ++run->times[array][write][power < 8 ? power : 7];
    if (array == run->kept && !write) {
        if (run->reads < run->room) {
            const auto width = (unsigned short)size;
            run->seen[run->reads] = {groups_run, (unsigned short)lane, width, offset};
        }
        ++run->reads;
    }
}

// Before `size` bytes are read or written.
inline void touch(const volatile void* address, Count size, bool write, Size place) {
    const Byte* at = (const Byte*)address;
    if (Size(at) - stack_begin < stack_size || !run->watched) {
        return;
    }
    Size offset = Size(at - last_array->begin);
    Array& array = offset < last_array->size && last_array->size - offset >= size
                       ? *last_array
                       : array_at(at, size, write, place);
    offset = Size(at - array.begin);
    if (run->seen) {
        see(Count(&array - run->arrays), offset, size, write);
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

}  // namespace check
#pragma clang attribute pop
