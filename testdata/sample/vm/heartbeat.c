/* The heartbeat: a thread that ticks every 2 ms, at a real-time priority. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "sample.h"

static atomic_ulong ticks;

unsigned long heartbeats(void) { return atomic_load(&ticks); }

static void *beat(void *unused)
{
    const struct timespec period = {0, 2 * 1000 * 1000};
    for (;;) {
        nanosleep(&period, NULL);
        atomic_fetch_add(&ticks, 1);
    }
    return unused;
}

static void stop(int error, const char *reason)
{
    errno = error;
    perror(reason);
    exit(error);
}

void ioInitHeartbeat(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, beat, NULL);
    if (error)
        stop(error, "beat thread creation failed");
    struct sched_param priority = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
    error = pthread_setschedparam(thread, SCHED_FIFO, &priority);
    if (error)
        stop(error, "pthread_setschedparam failed");
}
