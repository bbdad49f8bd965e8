/* Eight threads on the shim's mutex and condition; ends with 0 where every count is right. A deadlock ends by alarm. */
#include "bionic.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* As bionic's headers have them on LP64. */
enum { PLAIN = 0, RECURSIVE = 1, ERRORCHECK = 2, KIND_SHIFT = 14 };
typedef union { int32_t word; char bytes[40]; } mutex;
typedef union { int32_t word; char bytes[48]; } condition;

int BIONIC(pthread_mutexattr_init)(long *), BIONIC(pthread_mutexattr_settype)(long *, int);
int BIONIC(pthread_mutex_init)(mutex *, const long *), BIONIC(pthread_mutex_destroy)(mutex *);
int BIONIC(pthread_mutex_lock)(mutex *), BIONIC(pthread_mutex_trylock)(mutex *), BIONIC(pthread_mutex_unlock)(mutex *);
int BIONIC(pthread_cond_signal)(condition *), BIONIC(pthread_cond_broadcast)(condition *);
int BIONIC(pthread_cond_wait)(condition *, mutex *);
int BIONIC(pthread_cond_timedwait)(condition *, mutex *, const struct timespec *);

enum { THREADS = 8 };
static int rounds;
static mutex plain, recursive, checking, statically_recursive;
static condition filled, emptied, turned;
static long counted, nested, tried, queue, taken, waiting, generation;

#define LOCK BIONIC(pthread_mutex_lock)
#define UNLOCK BIONIC(pthread_mutex_unlock)
#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what); \
            exit(1); \
        } \
    } while (0)

static void *count(void *unused) {
    for (int i = 0; i < rounds; i++) {
        CHECK(LOCK(&plain) == 0);
        counted++;
        CHECK(UNLOCK(&plain) == 0);
        for (int depth = 0; depth < 3; depth++) CHECK((depth == 1 ? BIONIC(pthread_mutex_trylock) : LOCK)(&recursive) == 0);
        nested++;
        for (int depth = 0; depth < 3; depth++) CHECK(UNLOCK(&recursive) == 0);
        if (BIONIC(pthread_mutex_trylock)(&plain) == 0) {
            counted++;
            CHECK(UNLOCK(&plain) == 0);
            __atomic_add_fetch(&tried, 1, __ATOMIC_RELAXED);
        }
        CHECK(LOCK(&statically_recursive) == 0 && LOCK(&statically_recursive) == 0);
        nested++, nested--;
        CHECK(UNLOCK(&statically_recursive) == 0 && UNLOCK(&statically_recursive) == 0);
    }
    return unused;
}

static void *produce(void *unused) {
    for (int i = 0; i < rounds; i++) {
        LOCK(&plain);
        while (queue == 4) CHECK(BIONIC(pthread_cond_wait)(&emptied, &plain) == 0);
        queue++;
        BIONIC(pthread_cond_signal)(&filled);
        UNLOCK(&plain);
    }
    return unused;
}

static void *consume(void *unused) {
    for (int i = 0; i < rounds; i++) {
        LOCK(&plain);
        while (queue == 0) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += 60;
            CHECK(BIONIC(pthread_cond_timedwait)(&filled, &plain, &until) == 0);
        }
        queue--, taken++;
        BIONIC(pthread_cond_signal)(&emptied);
        UNLOCK(&plain);
    }
    return unused;
}

static void *meet(void *unused) {
    for (int i = 0; i < rounds / 10; i++) {
        LOCK(&plain);
        long mine = generation;
        if (++waiting == THREADS) {
            waiting = 0, generation++;
            BIONIC(pthread_cond_broadcast)(&turned);
        } else {
            while (generation == mine) CHECK(BIONIC(pthread_cond_wait)(&turned, &plain) == 0);
        }
        UNLOCK(&plain);
    }
    return unused;
}

static void together(void *(*first)(void *), void *(*second)(void *)) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, i % 2 ? second : first, NULL) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

static void *unlock_foreign(void *unused) {
    CHECK(UNLOCK(&checking) == EPERM && UNLOCK(&recursive) == EPERM);
    CHECK(BIONIC(pthread_mutex_trylock)(&checking) == EBUSY && BIONIC(pthread_mutex_trylock)(&recursive) == EBUSY);
    return unused;
}

static void rules(void) {
    pthread_t other;
    CHECK(LOCK(&checking) == 0 && LOCK(&checking) == EDEADLK && LOCK(&recursive) == 0);
    CHECK(BIONIC(pthread_mutex_destroy)(&checking) == EBUSY);
    CHECK(pthread_create(&other, NULL, unlock_foreign, NULL) == 0 && pthread_join(other, NULL) == 0);
    CHECK(UNLOCK(&checking) == 0 && UNLOCK(&recursive) == 0 && UNLOCK(&checking) == EPERM);
    struct timespec until, now;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 200000000L;
    if (until.tv_nsec >= 1000000000L) until.tv_sec++, until.tv_nsec -= 1000000000L;
    LOCK(&plain);
    CHECK(BIONIC(pthread_cond_timedwait)(&turned, &plain, &until) == ETIMEDOUT);
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK(now.tv_sec > until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec));
    until.tv_nsec = 1000000000L;
    CHECK(BIONIC(pthread_cond_timedwait)(&turned, &plain, &until) == EINVAL);
    CHECK(UNLOCK(&plain) == 0);
}

int main(int argc, char **argv) {
    rounds = argc > 1 ? atoi(argv[1]) : 1000;
    alarm(120);
    long attributes;
    BIONIC(pthread_mutexattr_init)(&attributes);
    CHECK(BIONIC(pthread_mutexattr_settype)(&attributes, 9) == EINVAL);
    CHECK(BIONIC(pthread_mutexattr_settype)(&attributes, RECURSIVE) == 0);
    BIONIC(pthread_mutex_init)(&recursive, &attributes);
    BIONIC(pthread_mutexattr_settype)(&attributes, ERRORCHECK);
    BIONIC(pthread_mutex_init)(&checking, &attributes);
    statically_recursive.word = RECURSIVE << KIND_SHIFT;
    together(count, count);
    CHECK(nested == (long)THREADS * rounds && counted == (long)THREADS * rounds + tried);
    together(produce, consume);
    CHECK(queue == 0 && taken == (long)THREADS / 2 * rounds);
    together(meet, meet);
    CHECK(generation == rounds / 10);
    rules();
    printf("done: %ld counted\n", counted);
    return 0;
}
