// Threads that wait for work, for kernels that take some microseconds: C++ of its own, without shim.h.
//
//     mlxquant_share(run, context, items, threads)    run(context, i) for every i below `items`
//
// Whoever calls works too, and returns when all is done. Items are claimed one by one, so that a
// thread that is held up leaves more to the others. A thread that has nothing to do looks for work
// for some microseconds before it sleeps: the products of one token follow closely. If two threads
// call at the same time, the second one does its work alone. A child of fork() starts anew.

#include <pthread.h>
#include <sched.h>

typedef void Run(void* context, unsigned long item);

namespace {

constexpr int most = 255;
// of looking for work, about 20 microseconds in all
constexpr int looks = 400;

pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
int started = 0, sleeping = 0;

// The work there is. `round` changes when it does; the low half of `state` counts the places that
// are left for threads to join, the high half those at work.
Run* run;
void* context;
unsigned long items, next;
unsigned int round_number = 0;
int places = 0, working = 0;

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void work() {
    for (;;) {
        const unsigned long item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (item >= items) {
            return;
        }
        run(context, item);
    }
}

void* worker(void*) {
    unsigned int seen = 0;
    for (;;) {
        for (int i = 0; i < looks && __atomic_load_n(&round_number, __ATOMIC_RELAXED) == seen; ++i) {
            breathe();
        }
        pthread_mutex_lock(&lock);
        while (round_number == seen) {
            ++sleeping;
            pthread_cond_wait(&wake, &lock);
            --sleeping;
        }
        seen = round_number;
        const bool joins = places > 0;
        if (joins) {
            --places;
            ++working;
        }
        pthread_mutex_unlock(&lock);
        if (joins) {
            work();
            __atomic_fetch_sub(&working, 1, __ATOMIC_RELEASE);
        }
    }
    return nullptr;
}

void anew() {
    busy = lock = PTHREAD_MUTEX_INITIALIZER;
    wake = PTHREAD_COND_INITIALIZER;
    started = sleeping = places = working = 0;
}

// As many as there are to be, or as the system gives.
void start(int count) {
    static bool told = false;
    if (!told) {
        told = true;
        pthread_atfork(nullptr, nullptr, anew);
    }
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (pthread_t made; started < count && !pthread_create(&made, &detached, worker, nullptr);) {
        ++started;
    }
    pthread_attr_destroy(&detached);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void mlxquant_share(
    Run* wanted, void* given, unsigned long count, int threads
) {
    int others = threads < most ? threads - 1 : most;
    if (count < 2 || others < 1 || pthread_mutex_trylock(&busy)) {
        for (unsigned long item = 0; item < count; ++item) {
            wanted(given, item);
        }
        return;
    }
    if (started < others) {
        start(others);
    }
    pthread_mutex_lock(&lock);
    run = wanted;
    context = given;
    items = count;
    next = 0;
    places = others;
    __atomic_store_n(&round_number, round_number + 1, __ATOMIC_RELAXED);
    const bool asleep = sleeping > 0;
    pthread_mutex_unlock(&lock);
    if (asleep) {
        pthread_cond_broadcast(&wake);
    }
    work();
    // nobody joins any more; those that did have an item each to finish
    pthread_mutex_lock(&lock);
    places = 0;
    pthread_mutex_unlock(&lock);
    for (int i = 0; __atomic_load_n(&working, __ATOMIC_ACQUIRE); ++i) {
        i < looks ? breathe() : (void)sched_yield();
    }
    pthread_mutex_unlock(&busy);
}
