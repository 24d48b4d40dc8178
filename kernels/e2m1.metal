// Numbers of E2M1: a sign, two bits of exponent, one of fraction. 0, 1/2, 1, 3/2, 2, 3, 4 and 6.
//
// They are a float16's sign and the bits about its exponent's end, but that its bias is 14 larger;
// what is subnormal in E2M1 is so there. So two are taken out of a word at a time.

#include "blocks.metal"

// Of both halves of a word, the four bits from `at` on: 2^-14 times the numbers.
inline half2 two_e2m1(uint word, int at) {
    const uint rest = at < 9 ? word << (9 - at) : word >> (at - 9);
    return as_type<half2>((rest & 0x0E000E00) | (word << (12 - at) & 0x80008000));
}

// Of a word's four bytes, the lower (upper = 0) or the upper four bits: twice the numbers. Both of
// E2M1's zeros are ggml's one: adding 0 takes the sign of the other away.
inline void four_e2m1(uint word, int upper, thread float* q) {
    const half2 even = two_e2m1(word, 4 * upper), odd = two_e2m1(word, 4 * upper + 8);
    q[0] = float(even[0]) * 32768.0f + 0.0f;
    q[1] = float(odd[0]) * 32768.0f + 0.0f;
    q[2] = float(even[1]) * 32768.0f + 0.0f;
    q[3] = float(odd[1]) * 32768.0f + 0.0f;
}
