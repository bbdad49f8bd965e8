/* Mutex and condition in bionic's layout. On LP64 bionic's mutex is 40 bytes and its condition 48, both valid when zero;
   glibc's differ in size and meaning, so these are futexes of our own inside that space. The mutex is the third one of
   U. Drepper, "Futexes Are Tricky" (2011), section 5: 0 free, 1 locked, 2 locked with somebody waiting. */
#include "bionic.h"

#include <errno.h>
#include <pthread.h>
#include <linux/futex.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NORMAL = 0, RECURSIVE = 1, ERRORCHECK = 2 };
enum { FREE = 0, LOCKED = 1, CONTENDED = 2 };
/* bionic's static initialisers of the other two kinds put the kind into bits 14 and 15 of the first word */
enum { KIND_SHIFT = 14, KIND_MASK = 3 << KIND_SHIFT };

typedef struct {
    int32_t state, owner, depth, kind;
    char rest[24];
} bionic_mutex;

typedef struct {
    int32_t sequence;
    char rest[44];
} bionic_condition;

_Static_assert(sizeof(bionic_mutex) == 40, "bionic's mutex");
_Static_assert(sizeof(bionic_condition) == 48, "bionic's condition");

static long futex(int32_t *word, int operation, int32_t value, const struct timespec *until) {
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

static int32_t self(void) {
    static __thread int32_t id;
    return id ? id : (id = (int32_t)syscall(SYS_gettid));
}

int BIONIC(pthread_mutexattr_init)(long *attributes) { *attributes = NORMAL; return 0; }
int BIONIC(pthread_mutexattr_destroy)(long *attributes) { *attributes = -1; return 0; }
int BIONIC(pthread_mutexattr_settype)(long *attributes, int kind) {
    if (kind < NORMAL || kind > ERRORCHECK) return EINVAL;
    *attributes = kind;
    return 0;
}

int BIONIC(pthread_mutex_init)(bionic_mutex *mutex, const long *attributes) {
    memset(mutex, 0, sizeof *mutex);
    mutex->kind = attributes ? (int32_t)(*attributes & 3) : NORMAL;
    return 0;
}

int BIONIC(pthread_mutex_destroy)(bionic_mutex *mutex) {
    int32_t state = __atomic_load_n(&mutex->state, __ATOMIC_RELAXED);
    return state == LOCKED || state == CONTENDED ? EBUSY : 0;
}

/* Turns a statically initialised recursive or checking mutex into our form; any thread may do so, all write the same. */
static void adopt(bionic_mutex *mutex) {
    int32_t state = __atomic_load_n(&mutex->state, __ATOMIC_RELAXED);
    if (!(state & KIND_MASK)) return;
    __atomic_store_n(&mutex->kind, state >> KIND_SHIFT & 3, __ATOMIC_RELAXED);
    __atomic_compare_exchange_n(&mutex->state, &state, FREE, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static int owned(bionic_mutex *mutex) { return __atomic_load_n(&mutex->owner, __ATOMIC_RELAXED) == self(); }

static void take(bionic_mutex *mutex) {
    __atomic_store_n(&mutex->owner, self(), __ATOMIC_RELAXED);
    mutex->depth = 1;
}

int BIONIC(pthread_mutex_trylock)(bionic_mutex *mutex) {
    adopt(mutex);
    if (mutex->kind == RECURSIVE && owned(mutex)) {
        mutex->depth++;
        return 0;
    }
    int32_t expected = FREE;
    if (!__atomic_compare_exchange_n(&mutex->state, &expected, LOCKED, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return EBUSY;
    take(mutex);
    return 0;
}

int BIONIC(pthread_mutex_lock)(bionic_mutex *mutex) {
    if (!BIONIC(pthread_mutex_trylock)(mutex)) return 0;
    if (mutex->kind == ERRORCHECK && owned(mutex)) return EDEADLK;
    while (__atomic_exchange_n(&mutex->state, CONTENDED, __ATOMIC_ACQUIRE) != FREE)
        futex(&mutex->state, FUTEX_WAIT, CONTENDED, NULL);
    take(mutex);
    return 0;
}

int BIONIC(pthread_mutex_unlock)(bionic_mutex *mutex) {
    if (mutex->kind != NORMAL && !owned(mutex)) return EPERM;
    if (mutex->kind == RECURSIVE && --mutex->depth > 0) return 0;
    __atomic_store_n(&mutex->owner, 0, __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&mutex->state, FREE, __ATOMIC_RELEASE) == CONTENDED) futex(&mutex->state, FUTEX_WAKE, 1, NULL);
    return 0;
}

/* Without attributes alone: conditions of another clock, or shared by processes, are not known. */
int BIONIC(pthread_cond_init)(bionic_condition *condition, const void *attributes) {
    if (attributes) return EINVAL;
    condition->sequence = 0;
    return 0;
}

int BIONIC(pthread_cond_destroy)(bionic_condition *condition) { (void)condition; return 0; }

static int wake(bionic_condition *condition, int32_t threads) {
    __atomic_add_fetch(&condition->sequence, 1, __ATOMIC_SEQ_CST);
    futex(&condition->sequence, FUTEX_WAKE, threads, NULL);
    return 0;
}

int BIONIC(pthread_cond_signal)(bionic_condition *condition) { return wake(condition, 1); }
int BIONIC(pthread_cond_broadcast)(bionic_condition *condition) { return wake(condition, INT32_MAX); }

/* The sequence is read under the mutex: a signal between unlock and sleep changes it, and the sleep ends at once. */
int BIONIC(pthread_cond_timedwait)(bionic_condition *condition, bionic_mutex *mutex, const struct timespec *until) {
    if (until && (until->tv_nsec < 0 || until->tv_nsec >= 1000000000L)) return EINVAL;
    int32_t sequence = __atomic_load_n(&condition->sequence, __ATOMIC_SEQ_CST);
    int failed = BIONIC(pthread_mutex_unlock)(mutex);
    if (failed) return failed;
    long slept = futex(&condition->sequence, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, sequence, until);
    int timed_out = slept < 0 && errno == ETIMEDOUT;
    BIONIC(pthread_mutex_lock)(mutex);
    return timed_out ? ETIMEDOUT : 0;
}

int BIONIC(pthread_cond_wait)(bionic_condition *condition, bionic_mutex *mutex) {
    return BIONIC(pthread_cond_timedwait)(condition, mutex, NULL);
}

/* On LP64 both C libraries give this lock 56 bytes, all zero at first, and none but their own functions look inside. */
_Static_assert(sizeof(pthread_rwlock_t) == 56, "bionic's size");
int BIONIC(pthread_rwlock_rdlock)(pthread_rwlock_t *lock) { return pthread_rwlock_rdlock(lock); }
int BIONIC(pthread_rwlock_wrlock)(pthread_rwlock_t *lock) { return pthread_rwlock_wrlock(lock); }
int BIONIC(pthread_rwlock_unlock)(pthread_rwlock_t *lock) { return pthread_rwlock_unlock(lock); }
