// What encoders with the levels of IQ4_NL share: mlxquant/formats/iq4_nl.py.

#include "scale_search.metal"
#include "tables/IQ4_NL_CHANGES.metal"
#include "tables/IQ4_NL_EDGES.metal"
#include "tables/IQ4_NL_LEVELS.metal"

// Sixteen levels that lie closer around zero, and where the search puts the extreme weight.
struct UnevenLevels {
    static constant constexpr int edges = 25;

    static float edge(int i) { return IQ4_NL_EDGES[i]; }

    // Half-units from -128 on: the next level begins at whole ones.
    static Floats half_units(Floats steps) { return steps * 2.0f + 256.0f; }

    Floats nearest(Floats steps) const thread {
        const Floats at = half_units(steps);
        Floats level = Floats(IQ4_NL_LEVELS[0]);
        UNROLL
        for (int i = 0; i < 15; ++i) {
            level = at >= IQ4_NL_CHANGES[i] ? Floats(IQ4_NL_LEVELS[i + 1]) : level;
        }
        return level;
    }

    Words code(Floats steps) const thread {
        const Floats at = half_units(steps);
        Words code = Words(0u);
        UNROLL
        for (int i = 0; i < 15; ++i) {
            code = at >= IQ4_NL_CHANGES[i] ? Words(uint(i + 1)) : code;
        }
        return code;
    }
};
