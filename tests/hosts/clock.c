/* The wall clock of one host. Every program that loads this library reads the machine's CLOCK_REALTIME plus an offset,
 * which the file CLOCK holds (int64, nanoseconds) and which may change at any time.
 *
 * Waits until a time on that clock follow it, as the kernel lets them: a clock set ahead ends them, one set back makes
 * them longer. Waits for a duration, and those on the monotonic clock, keep their length.
 *
 * Limits: times of files are the machine's. timer_settime and mq_timed* read the machine's clock, and a timerfd keeps
 * the length it had when it was set. Programs that call the kernel without libc (Go's) have the machine's clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* Without a version, dlsym finds the newest one: of pthread_cond_*, that of glibc 2.3.2, as every program's is. */
#define NEXT(name) ({ \
    static __typeof__(&name) next; \
    next ? next : (next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)); })

static int64_t offset(void) {
    static const int64_t none, *cell;
    if (!cell) { /* Not in a constructor: those of other libraries come first. */
        int before = errno, file = open(CLOCK, O_RDONLY | O_CLOEXEC);
        void *map = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *cell, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        cell = map == MAP_FAILED ? &none : map;
        errno = before;
    }
    return __atomic_load_n(cell, __ATOMIC_RELAXED);
}

static struct timespec shift(struct timespec time, int64_t by) {
    by += time.tv_nsec;
    time.tv_sec += by / SECOND - (by % SECOND < 0);
    time.tv_nsec = (by % SECOND + SECOND) % SECOND;
    return time;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = NEXT(clock_gettime)(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *now = shift(*now, offset());
    return result;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return seconds ? (*seconds = now.tv_sec) : now.tv_sec;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    if (zone) *(struct timezone *)zone = (struct timezone){0, 0}; /* As glibc does. */
    return 0;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

static int earlier(struct timespec a, struct timespec b) {
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* A deadline in the machine's time, but at most a second from now: the clock may change during the wait. */
static struct timespec slice(const struct timespec *deadline) {
    struct timespec now, end = shift(*deadline, -offset());
    NEXT(clock_gettime)(CLOCK_REALTIME, &now);
    now = shift(now, SECOND);
    return earlier(now, end) ? now : end;
}

static int ahead(const struct timespec *deadline) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return earlier(now, *deadline);
}

/* Calls, with a time until when, and again while it ends by that time and the deadline is ahead. */
#define WAIT(call, timed_out) ({ \
    struct timespec until; \
    __typeof__(call) result; \
    do until = slice(deadline), result = call; while ((timed_out) && ahead(deadline)); \
    result; })

/* The pair of functions that wait on the wall clock, and on the one that is named. */
#define LOCK(type, timed, clocked) \
    int timed(type *lock, const struct timespec *deadline) { \
        return WAIT(NEXT(timed)(lock, &until), result == ETIMEDOUT); \
    } \
    int clocked(type *lock, clockid_t clock, const struct timespec *deadline) { \
        return clock == CLOCK_REALTIME ? timed(lock, deadline) : NEXT(clocked)(lock, clock, deadline); \
    }
LOCK(pthread_mutex_t, pthread_mutex_timedlock, pthread_mutex_clocklock)
LOCK(pthread_rwlock_t, pthread_rwlock_timedrdlock, pthread_rwlock_clockrdlock)
LOCK(pthread_rwlock_t, pthread_rwlock_timedwrlock, pthread_rwlock_clockwrlock)

int sem_timedwait(sem_t *lock, const struct timespec *deadline) {
    return WAIT(NEXT(sem_timedwait)(lock, &until), result && errno == ETIMEDOUT);
}

int sem_clockwait(sem_t *lock, clockid_t clock, const struct timespec *deadline) {
    return clock == CLOCK_REALTIME ? sem_timedwait(lock, deadline) : NEXT(sem_clockwait)(lock, clock, deadline);
}

/* A signal may come between two slices, while nobody waits for it: the caller has to look whether it did. */
#define WAIT_ONCE(call) ({ \
    struct timespec until = slice(deadline); \
    int result = call; \
    result == ETIMEDOUT && ahead(deadline) ? 0 : result; })

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
    /* How glibc marks a condition whose clock is the monotonic one (__PTHREAD_COND_CLOCK_MONOTONIC_MASK). */
    if (condition->__data.__wrefs & 2) return NEXT(pthread_cond_timedwait)(condition, mutex, deadline);
    return WAIT_ONCE(NEXT(pthread_cond_timedwait)(condition, mutex, &until));
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *deadline) {
    if (clock != CLOCK_REALTIME) return NEXT(pthread_cond_clockwait)(condition, mutex, clock, deadline);
    return WAIT_ONCE(NEXT(pthread_cond_clockwait)(condition, mutex, clock, &until));
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *deadline, struct timespec *left) {
    if (clock != CLOCK_REALTIME || !(flags & TIMER_ABSTIME)) return NEXT(clock_nanosleep)(clock, flags, deadline, left);
    return WAIT(NEXT(clock_nanosleep)(clock, flags, &until, left), !result);
}

static char on_wall_clock[1 << 16]; /* By file descriptor. */

int timerfd_create(clockid_t clock, int flags) {
    int timer = NEXT(timerfd_create)(clock, flags);
    if (timer >= 0 && timer < (int)sizeof on_wall_clock) on_wall_clock[timer] = clock == CLOCK_REALTIME;
    return timer;
}

int timerfd_settime(int timer, int flags, const struct itimerspec *time, struct itimerspec *before) {
    struct itimerspec real = *time;
    int armed = time->it_value.tv_sec || time->it_value.tv_nsec;
    if (armed && flags & TFD_TIMER_ABSTIME && timer >= 0 && timer < (int)sizeof on_wall_clock && on_wall_clock[timer])
        real.it_value = shift(real.it_value, -offset());
    return NEXT(timerfd_settime)(timer, flags, &real, before);
}

/* Abseil waits by the system call itself. */
long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; ++i) a[i] = va_arg(rest, long);
    va_end(rest);
    const struct timespec *deadline = (const struct timespec *)a[3];
    int waits = number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && a[1] & FUTEX_CLOCK_REALTIME;
    if (!waits || !deadline)
        return NEXT(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return WAIT(NEXT(syscall)(number, a[0], a[1], a[2], &until, a[4], a[5]), result < 0 && errno == ETIMEDOUT);
}
