// Barriers, functions of a simdgroup and its matrices, declared with Metal's address spaces, so that
// clang can refuse a wrong one. Nothing calls them.

void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);

#define OF_ONE(name)      \
    template <typename T> \
    T name(T value);
OF_ONE(simd_sum)
OF_ONE(simd_product)
OF_ONE(simd_max)
OF_ONE(simd_min)
OF_ONE(simd_or)
OF_ONE(simd_and)
OF_ONE(simd_xor)
OF_ONE(simd_broadcast_first)
OF_ONE(simd_prefix_inclusive_sum)
OF_ONE(simd_prefix_exclusive_sum)
#undef OF_ONE

#define OF_TWO(name)      \
    template <typename T> \
    T name(T value, ushort argument);
OF_TWO(simd_shuffle)
OF_TWO(simd_shuffle_xor)
OF_TWO(simd_shuffle_down)
OF_TWO(simd_shuffle_up)
OF_TWO(simd_broadcast)
#undef OF_TWO

bool simd_all(bool value);
bool simd_any(bool value);

template <typename T, int columns, int rows>
struct simdgroup_matrix {
    static_assert(columns == 8 && rows == 8, "Metal has 8 by 8");

    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal);
    thread vec<T, 2>& thread_elements();
    const thread vec<T, 2>& thread_elements() const;
};

template <typename T, int columns, int rows>
simdgroup_matrix<T, columns, rows> make_filled_simdgroup_matrix(T value);

#define OF_SPACE(space)                                                                     \
    template <typename T>                                                                   \
    void simdgroup_load(                                                                    \
        thread simdgroup_matrix<T, 8, 8>& to, const space T* from, ulong elements_per_row = 8, \
        ulong2 origin = 0, bool transpose = false                                           \
    );                                                                                      \
    template <typename T>                                                                   \
    void simdgroup_store(                                                                   \
        simdgroup_matrix<T, 8, 8> from, space T* to, ulong elements_per_row = 8,            \
        ulong2 origin = 0, bool transpose = false                                           \
    );
OF_SPACE(device)
OF_SPACE(threadgroup)
#undef OF_SPACE

template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b, const thread simdgroup_matrix<C, 8, 8>& c
);

template <typename D, typename A, typename B>
void simdgroup_multiply(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b
);
