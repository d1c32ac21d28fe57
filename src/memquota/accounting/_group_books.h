/* How much each group allocated and freed, and which group is current in each thread.

   What a thread does to its current group is summed up in the thread's own record and carried over to the group's
   when the thread turns to another group or ends; what it does to other groups goes to theirs at once. So the common
   case has no atomic read-modify-write, and the memory taken does not grow with threads times groups.

   Threads: a record is written by its thread alone, with or without the GIL. The list of records is under `records_lock`,
   which is never held while anything of Python's is called. Turning to another group and reading both need the GIL,
   so that what is being carried over is never read twice. */

#ifndef MEMQUOTA_GROUP_BOOKS_H
#define MEMQUOTA_GROUP_BOOKS_H

#include <pthread.h>
#include <stdlib.h>

#include "_block_table.h"

/* Looked up in every hook. musl loads no module later whose variables have fixed places. */
#ifdef __GLIBC__
#define FAST_TLS __attribute__((tls_model("initial-exec")))
#else
#define FAST_TLS
#endif

#define GROUPS (1 << 16) /* as many as a cell can name; 0 is nobody */

struct sums {
    atomic_size_t allocated_bytes;
    atomic_size_t allocated_objects;
    atomic_size_t freed_bytes;
    atomic_size_t freed_objects;
};

struct group {
    _Alignas(64) struct sums sums; /* a cache line for each */
    bool open;                     /* registered and not released. Lock: the GIL */
};

struct record {
    uint32_t group;      /* the current one. Lock: the GIL, to change it */
    uint32_t counting;   /* the same; 0 while an inner allocator runs, so that what it asks for is not counted twice */
    unsigned run;        /* in which run of the counting it was entered */
    int calloc_seen;     /* which domain's hook was here last with a calloc */
    struct sums pending; /* what is not yet in the sums of `group` */
    struct record *next, *previous;
};

static struct group groups[GROUPS];
static uint32_t groups_made = 1; /* numbers below are, or were, somebody's. Lock: the GIL */
static _Thread_local FAST_TLS struct record *mine; /* NULL until the thread enters its first group */

static pthread_mutex_t records_lock = PTHREAD_MUTEX_INITIALIZER;
static struct record *records;
static pthread_key_t ending;

/* --- counting ---------------------------------------------------------------------------------------------------- */

static inline void add_own(atomic_size_t *sum, size_t n)
{
    atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + n, memory_order_release);
}

static inline void add_shared(atomic_size_t *sum, size_t n)
{
    if (n != 0) {
        atomic_fetch_add_explicit(sum, n, memory_order_release);
    }
}

static inline void count_allocated(struct record *t, struct block block)
{
    if (LIKELY(t != NULL && t->group == block.group)) {
        add_own(&t->pending.allocated_bytes, block.size);
        add_own(&t->pending.allocated_objects, 1);
    } else {
        add_shared(&groups[block.group].sums.allocated_bytes, block.size);
        add_shared(&groups[block.group].sums.allocated_objects, 1);
    }
}

static inline void count_freed(struct record *t, struct block block)
{
    if (LIKELY(t != NULL && t->group == block.group)) {
        add_own(&t->pending.freed_bytes, block.size);
        add_own(&t->pending.freed_objects, 1);
    } else {
        add_shared(&groups[block.group].sums.freed_bytes, block.size);
        add_shared(&groups[block.group].sums.freed_objects, 1);
    }
}

/* The same block with another size: the difference. Resizing is rare enough for the group's own sums. */
static inline void count_resized(struct block block, size_t size)
{
    struct sums *sums = &groups[block.group].sums;
    if (size > block.size) {
        add_shared(&sums->allocated_bytes, size - block.size);
    } else {
        add_shared(&sums->freed_bytes, block.size - size);
    }
}

/* --- threads ----------------------------------------------------------------------------------------------------- */

static void clear_sums(struct sums *sums)
{
    atomic_store_explicit(&sums->allocated_bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&sums->allocated_objects, 0, memory_order_relaxed);
    atomic_store_explicit(&sums->freed_bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&sums->freed_objects, 0, memory_order_relaxed);
}

/* Carry over what a record holds. By its own thread, or when that thread is no more. */
static void settle(struct record *t)
{
    struct sums *sums = &groups[t->group].sums;
    add_shared(&sums->allocated_bytes, atomic_load(&t->pending.allocated_bytes));
    add_shared(&sums->allocated_objects, atomic_load(&t->pending.allocated_objects));
    add_shared(&sums->freed_bytes, atomic_load(&t->pending.freed_bytes));
    add_shared(&sums->freed_objects, atomic_load(&t->pending.freed_objects));
    clear_sums(&t->pending);
}

/* Another group is current in this thread from now on. */
static inline void turn_to(struct record *t, uint32_t group)
{
    if (t->group != group) {
        settle(t);
        t->group = t->counting = group;
    }
}

static void unlink_record(struct record *t)
{
    if (t->next != NULL) {
        t->next->previous = t->previous;
    }
    if (t->previous != NULL) {
        t->previous->next = t->next;
    } else {
        records = t->next;
    }
}

/* A thread ends, without the GIL. What it still frees after this goes to the groups' sums at once. */
static void end_of_thread(void *record)
{
    mine = NULL;
    pthread_mutex_lock(&records_lock);
    settle(record);
    unlink_record(record);
    pthread_mutex_unlock(&records_lock);
    free(record);
}

/* The record of this thread; NULL: no memory. */
static struct record *own_record(void)
{
    if (mine != NULL) {
        return mine;
    }
    struct record *t = calloc(1, sizeof(struct record));
    if (t == NULL) {
        return NULL;
    }
    if (pthread_setspecific(ending, t) != 0) {
        free(t);
        return NULL;
    }
    pthread_mutex_lock(&records_lock);
    t->next = records;
    if (records != NULL) {
        records->previous = t;
    }
    records = t;
    pthread_mutex_unlock(&records_lock);
    mine = t;
    return t;
}

/* --- fork -------------------------------------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&records_lock);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&records_lock);
}

/* The child has the blocks and so the books; of the threads it has this one. */
static void in_child(void)
{
    struct record *t = records;
    while (t != NULL) {
        struct record *next = t->next;
        if (t != mine) {
            settle(t);
            unlink_record(t);
            free(t);
        }
        t = next;
    }
    pthread_mutex_unlock(&records_lock);
}

/* Once for each process. 0, or an error's number. */
static int prepare_threads(void)
{
    static bool prepared;
    if (prepared) {
        return 0;
    }
    int error = pthread_key_create(&ending, end_of_thread);
    if (error == 0) {
        error = pthread_atfork(before_fork, in_parent, in_child);
    }
    prepared = error == 0;
    return error;
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

struct reading {
    size_t allocated_bytes, allocated_objects, freed_bytes, freed_objects;
};

/* Lock: the GIL. What was freed is read first: each of those blocks was allocated before, so nothing is negative. */
static struct reading read_group(uint32_t number)
{
    struct reading found;
    struct sums *sums = &groups[number].sums;
    pthread_mutex_lock(&records_lock);
    found.freed_bytes = atomic_load(&sums->freed_bytes);
    found.freed_objects = atomic_load(&sums->freed_objects);
    for (struct record *t = records; t != NULL; t = t->next) {
        if (t->group == number) {
            found.freed_bytes += atomic_load(&t->pending.freed_bytes);
            found.freed_objects += atomic_load(&t->pending.freed_objects);
        }
    }
    found.allocated_bytes = atomic_load(&sums->allocated_bytes);
    found.allocated_objects = atomic_load(&sums->allocated_objects);
    for (struct record *t = records; t != NULL; t = t->next) {
        if (t->group == number) {
            found.allocated_bytes += atomic_load(&t->pending.allocated_bytes);
            found.allocated_objects += atomic_load(&t->pending.allocated_objects);
        }
    }
    pthread_mutex_unlock(&records_lock);
    return found;
}

static bool is_current_somewhere(uint32_t number)
{
    bool found = false;
    pthread_mutex_lock(&records_lock);
    for (struct record *t = records; t != NULL; t = t->next) {
        found = found || t->group == number;
    }
    pthread_mutex_unlock(&records_lock);
    return found;
}

static bool is_empty(uint32_t number)
{
    struct reading sums = read_group(number);
    return sums.allocated_objects == sums.freed_objects;
}

static void books_clear(void)
{
    pthread_mutex_lock(&records_lock);
    for (struct record *t = records; t != NULL; t = t->next) {
        clear_sums(&t->pending);
    }
    pthread_mutex_unlock(&records_lock);
    for (uint32_t i = 0; i < groups_made; i++) {
        clear_sums(&groups[i].sums);
    }
}

#endif
