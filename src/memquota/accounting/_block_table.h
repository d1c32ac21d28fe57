/* Whose block begins at an address, and how large it is: a radix tree over addresses.

   Every 16 bytes of address space have a cell of 4 bytes, made in stretches of 1 MiB when a group's first block lies
   there. A cell that is not 0 says that a block of a group begins there. Blocks themselves are left as they are, so a
   block that is not in the table (from before the start, of no group) needs no care, and neither does one of ours that
   is freed when nobody looks any more. Looking costs two loads of pointers, which are hot, and one of the cell, which
   lies beside those of the block's neighbours.

   Threads: no lock. A cell belongs to who owns the block: it is written after the inner allocator gave the block out
   and cleared before it is given back, so no two threads write one cell at a time. */

#ifndef MEMQUOTA_BLOCK_TABLE_H
#define MEMQUOTA_BLOCK_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Group in the upper half, size in the lower. Groups are from 1 on, so a block's cell is never 0. */
typedef _Atomic(uint32_t) cell;

#define GRANULE_BITS 4 /* what every allocator aligns to, for more than 8 bytes */
#define LEAF_BITS 16   /* 1 MiB of addresses, an arena of CPython's; 256 KiB of cells */
#define MIDDLE_BITS 14 /* 16 GiB of addresses */
#define TOP_BITS 14    /* 48 bits in all: what kernels give to who does not ask for more */

/* In the size's place: the next two cells of the block, which has them, hold the size. */
#define LARGE 0xFFFFu

struct leaf {
    cell cells[1 << LEAF_BITS];
};

struct middle {
    _Atomic(struct leaf *) leaves[1 << MIDDLE_BITS];
};

static _Atomic(struct middle *) top[1 << TOP_BITS];
static atomic_size_t table_bytes; /* reserved; the kernel provides what is touched */

struct block {
    uint32_t group; /* 0: nobody's */
    size_t size;
};

static inline void *pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    atomic_fetch_add_explicit(&table_bytes, size, memory_order_relaxed);
    return p;
}

/* Whoever is second uses what the first one made. */
#define MAKE(place, type)                                                                                              \
    type *made = pages(sizeof(type)), *there = NULL;                                                                   \
    if (made == NULL) {                                                                                                \
        return NULL;                                                                                                   \
    }                                                                                                                  \
    if (atomic_compare_exchange_strong(place, &there, made)) {                                                         \
        return made;                                                                                                   \
    }                                                                                                                  \
    munmap(made, sizeof(type));                                                                                        \
    atomic_fetch_sub_explicit(&table_bytes, sizeof(type), memory_order_relaxed);                                       \
    return there

static __attribute__((noinline)) struct middle *make_middle(_Atomic(struct middle *) *place)
{
    MAKE(place, struct middle);
}

static __attribute__((noinline)) struct leaf *make_leaf(_Atomic(struct leaf *) *place)
{
    MAKE(place, struct leaf);
}

#undef MAKE

/* The cell of an address. NULL: there is none, and it could not be made or was not to be. */
static inline cell *cell_of(uintptr_t address, bool make)
{
    uintptr_t granule = address >> GRANULE_BITS;
    uintptr_t high = granule >> (LEAF_BITS + MIDDLE_BITS);
    if (UNLIKELY(high >= 1 << TOP_BITS)) {
        return NULL;
    }
    struct middle *middle = atomic_load_explicit(&top[high], memory_order_acquire);
    if (UNLIKELY(middle == NULL) && (!make || (middle = make_middle(&top[high])) == NULL)) {
        return NULL;
    }
    _Atomic(struct leaf *) *place = &middle->leaves[(granule >> LEAF_BITS) & ((1 << MIDDLE_BITS) - 1)];
    struct leaf *leaf = atomic_load_explicit(place, memory_order_acquire);
    if (UNLIKELY(leaf == NULL) && (!make || (leaf = make_leaf(place)) == NULL)) {
        return NULL;
    }
    return &leaf->cells[granule & ((1 << LEAF_BITS) - 1)];
}

static inline uint32_t cell_get(cell *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

static inline void cell_set(cell *c, uint32_t value)
{
    atomic_store_explicit(c, value, memory_order_relaxed);
}

/* The two cells that hold the size of a large block; they may lie in another leaf than its first. */
static inline bool cells_of_size(const void *p, cell **low, cell **high, bool make)
{
    *low = cell_of((uintptr_t)p + (1 << GRANULE_BITS), make);
    *high = cell_of((uintptr_t)p + (2 << GRANULE_BITS), make);
    return *low != NULL && *high != NULL;
}

static __attribute__((noinline)) bool enter_large(cell *first, const void *p, struct block block)
{
    cell *low, *high;
    if (!cells_of_size(p, &low, &high, true)) {
        return false;
    }
    cell_set(low, (uint32_t)block.size);
    cell_set(high, (uint32_t)((uint64_t)block.size >> 32));
    cell_set(first, block.group << 16 | LARGE);
    return true;
}

static __attribute__((noinline)) size_t take_large(const void *p)
{
    cell *low, *high;
    if (!cells_of_size(p, &low, &high, false)) {
        return 0; /* cannot be: they were made before the first cell was written */
    }
    uint64_t size = cell_get(low) | (uint64_t)cell_get(high) << 32;
    cell_set(low, 0);
    cell_set(high, 0);
    return (size_t)size;
}

/* Enter a block in its cell. False: there is no cell, or none for its size; then nothing was entered. */
static inline bool cell_enter(cell *c, const void *p, struct block block)
{
    if (UNLIKELY(c == NULL)) {
        return false;
    }
    if (UNLIKELY(block.size >= LARGE)) {
        return enter_large(c, p, block);
    }
    cell_set(c, block.group << 16 | (uint32_t)block.size);
    return true;
}

/* Take a block out: whose it was. */
static inline struct block table_take(const void *p)
{
    cell *c = cell_of((uintptr_t)p, false);
    uint32_t value = c == NULL ? 0 : cell_get(c);
    if (value == 0) {
        return (struct block){0, 0};
    }
    cell_set(c, 0);
    size_t size = value & LARGE;
    if (UNLIKELY(size == LARGE)) {
        size = take_large(p);
    }
    return (struct block){value >> 16, size};
}

/* Take everything out. Its pages go back to the kernel where that also clears them. */
static void table_clear(void)
{
    for (size_t i = 0; i < 1 << TOP_BITS; i++) {
        struct middle *middle = atomic_load(&top[i]);
        for (size_t j = 0; middle != NULL && j < 1 << MIDDLE_BITS; j++) {
            struct leaf *leaf = atomic_load(&middle->leaves[j]);
            if (leaf == NULL) {
                continue;
            }
#ifdef __linux__
            if (madvise(leaf, sizeof(struct leaf), MADV_DONTNEED) == 0) {
                continue;
            }
#endif
            memset(leaf, 0, sizeof(struct leaf));
        }
    }
}

#endif
