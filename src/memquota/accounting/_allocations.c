/* Allocations by group: hooks around CPython's three allocators.

   Each hook calls the allocator that was there before it and notes in a table whose block that is (_block_table.h),
   and how much the group has (_group_books.h). No hook touches a Python object, takes a lock or calls Python. Blocks
   are what they would be without us, so the hooks may come and go while blocks live.

   Threads: the raw domain is called without the GIL. Hooks find the allocator below by themselves and leave `ctx` as it
   was, so that a thread that reads an allocator's five words while they are being exchanged calls either side rightly. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_group_books.h"

#define DOMAINS 3
static const PyMemAllocatorDomain domains[DOMAINS] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};

static unsigned run = 1;                           /* how often it was started, and one. Lock: the GIL */
static atomic_uint active;                         /* the run that hooks which are reached count for; 0: they do not count */
static _Atomic(PyMemAllocatorEx *) below[DOMAINS]; /* never freed: somebody may be about to use it */
static atomic_size_t missed;                       /* blocks for which the table had no room */

/* Allocators may put two blocks of up to 8 bytes into one granule; a block of ours needs its own. Elsewhere a size this
   small is rounded up anyway. */
static inline size_t own_granule(size_t size)
{
    return size > 8 ? size : 9;
}

/* --- the hooks --------------------------------------------------------------------------------------------------- */

static __attribute__((noinline)) void note_stale(struct record *t, const void *p)
{
    count_freed(t, table_take(p)); /* its free passed us by: somebody had taken our hooks away, or used another domain */
}

static inline void note_allocated(struct record *t, const void *p, struct block block)
{
    cell *c = cell_of((uintptr_t)p, true);
    if (UNLIKELY(c != NULL && cell_get(c) != 0)) {
        note_stale(t, p);
    }
    if (LIKELY(cell_enter(c, p, block))) {
        count_allocated(t, block);
    } else {
        atomic_fetch_add_explicit(&missed, 1, memory_order_relaxed);
    }
}

static inline unsigned active_run(void)
{
    return atomic_load_explicit(&active, memory_order_relaxed);
}

/* Whose group counts now; 0: nobody's. What a thread entered in an earlier run it may have left since, unnoticed. */
static inline uint32_t counting(struct record *t)
{
    return t == NULL || t->counting == 0 || t->run != active_run() ? 0 : t->counting;
}

static inline void *hook_malloc(int domain, size_t size)
{
    PyMemAllocatorEx *inner = atomic_load_explicit(&below[domain], memory_order_acquire);
    struct record *t = mine;
    uint32_t group = counting(t);
    if (group == 0) {
        return inner->malloc(inner->ctx, size);
    }
    t->counting = 0;
    void *p = inner->malloc(inner->ctx, own_granule(size));
    t->counting = group;
    if (LIKELY(p != NULL)) {
        note_allocated(t, p, (struct block){group, size});
    }
    return p;
}

static inline void *hook_calloc(int domain, size_t count, size_t size)
{
    PyMemAllocatorEx *inner = atomic_load_explicit(&below[domain], memory_order_acquire);
    struct record *t = mine;
    uint32_t group = counting(t);
    if (group == 0) {
        return inner->calloc(inner->ctx, count, size);
    }
    t->counting = 0;
    /* Who calls us has checked that the product is a size. */
    void *p = count * size > 8 ? inner->calloc(inner->ctx, count, size) : inner->calloc(inner->ctx, 1, own_granule(0));
    t->counting = group;
    t->calloc_seen = domain;
    if (LIKELY(p != NULL)) {
        note_allocated(t, p, (struct block){group, count * size});
    }
    return p;
}

/* A block that is resized stays with its group; nobody's becomes the group's that resizes it. */
static inline void *hook_realloc(int domain, void *p, size_t size)
{
    PyMemAllocatorEx *inner = atomic_load_explicit(&below[domain], memory_order_acquire);
    if (p == NULL) {
        return hook_malloc(domain, size);
    }
    struct record *t = mine;
    uint32_t group = counting(t);
    struct block old = {0, 0};
    if (LIKELY(active_run() != 0)) {
        old = table_take(p); /* before anybody else can be given the address */
    }
    if (old.group == 0 && group == 0) {
        return inner->realloc(inner->ctx, p, size);
    }
    uint32_t before = t == NULL ? 0 : t->counting;
    if (t != NULL) {
        t->counting = 0;
    }
    void *q = inner->realloc(inner->ctx, p, own_granule(size));
    if (t != NULL) {
        t->counting = before;
    }
    if (UNLIKELY(q == NULL)) {
        if (old.group != 0) {
            cell_enter(cell_of((uintptr_t)p, true), p, old); /* its cells are there */
        }
        return NULL;
    }
    if (old.group == 0) {
        note_allocated(t, q, (struct block){group, size});
    } else if (LIKELY(cell_enter(cell_of((uintptr_t)q, true), q, (struct block){old.group, size}))) {
        count_resized(old, size);
    } else {
        count_freed(t, old);
        atomic_fetch_add_explicit(&missed, 1, memory_order_relaxed);
    }
    return q;
}

static inline void hook_free(int domain, void *p)
{
    PyMemAllocatorEx *inner = atomic_load_explicit(&below[domain], memory_order_acquire);
    if (LIKELY(active_run() != 0)) {
        struct block block = table_take(p); /* before anybody else can be given the address */
        if (block.group != 0) {
            count_freed(mine, block);
        }
    }
    inner->free(inner->ctx, p);
}

#define HOOKS(name, domain)                                                                                            \
    static void *name##_malloc(void *Py_UNUSED(ctx), size_t size) { return hook_malloc(domain, size); }                \
    static void *name##_calloc(void *Py_UNUSED(ctx), size_t n, size_t size) { return hook_calloc(domain, n, size); }   \
    static void *name##_realloc(void *Py_UNUSED(ctx), void *p, size_t size) { return hook_realloc(domain, p, size); }  \
    static void name##_free(void *Py_UNUSED(ctx), void *p) { hook_free(domain, p); }

HOOKS(raw, 0)
HOOKS(mem, 1)
HOOKS(obj, 2)

static const PyMemAllocatorEx hooks[DOMAINS] = {
    {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    {NULL, obj_malloc, obj_calloc, obj_realloc, obj_free},
};

/* --- putting them in and taking them out ------------------------------------------------------------------------- */

static bool on_top(int domain)
{
    PyMemAllocatorEx present;
    PyMem_GetAllocator(domains[domain], &present);
    return present.malloc == hooks[domain].malloc;
}

/* Whether an allocation comes to us: others may lie above us, and others may have taken us away. Tried, as no chain of
   allocators can be read. Lock: the GIL. */
static bool reached(struct record *t, int domain)
{
    static void *(*const calloc_of[DOMAINS])(size_t, size_t) = {PyMem_RawCalloc, PyMem_Calloc, PyObject_Calloc};
    static void (*const free_of[DOMAINS])(void *) = {PyMem_RawFree, PyMem_Free, PyObject_Free};
    if (atomic_load(&below[domain]) == NULL) {
        return false;
    }
    uint32_t group = t->counting;
    unsigned entered = t->run;
    unsigned was_active = atomic_exchange(&active, run);
    t->run = run;
    t->calloc_seen = -1;
    t->counting = GROUPS - 1; /* which is nobody's */
    void *p = calloc_of[domain](1, 1);
    if (p != NULL) {
        free_of[domain](p);
    }
    t->counting = group;
    t->run = entered;
    atomic_store(&active, was_active);
    return t->calloc_seen == domain;
}

/* False: no memory. Lock: the GIL. */
static bool put_in(struct record *t, int domain)
{
    if (on_top(domain) || reached(t, domain)) {
        return true;
    }
    PyMemAllocatorEx present, ours = hooks[domain];
    PyMem_GetAllocator(domains[domain], &present);
    PyMemAllocatorEx *known = atomic_load(&below[domain]);
    if (known == NULL || memcmp(known, &present, sizeof present) != 0) {
        PyMemAllocatorEx *kept = malloc(sizeof present);
        if (kept == NULL) {
            return false;
        }
        *kept = present;
        atomic_store(&below[domain], kept);
    }
    ours.ctx = present.ctx;
    PyMem_SetAllocator(domains[domain], &ours);
    return true;
}

/* Below somebody else's hooks ours must stay, and pass everything on. Lock: the GIL. */
static void take_out(int domain)
{
    if (on_top(domain)) {
        PyMem_SetAllocator(domains[domain], atomic_load(&below[domain]));
    }
}

/* --- for Python -------------------------------------------------------------------------------------------------- */

static uint32_t open_group(PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred()) {
        return 0;
    }
    if (number <= 0 || number >= GROUPS || !groups[number].open) {
        PyErr_Format(PyExc_ValueError, "there is no group %ld", number);
        return 0;
    }
    return (uint32_t)number;
}

static PyObject *py_register(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    if (groups_made < GROUPS - 1) {
        groups[groups_made].open = true;
        return PyLong_FromLong(groups_made++);
    }
    /* All numbers were used once. One that was released is free when nothing is left of it. */
    static uint32_t number; /* where the search goes on: each is looked at when it is its turn */
    for (uint32_t seen = 1; seen < GROUPS - 1; seen++) {
        number = number < GROUPS - 2 ? number + 1 : 1;
        if (!groups[number].open && !is_current_somewhere(number) && is_empty(number)) {
            clear_sums(&groups[number].sums);
            groups[number].open = true;
            return PyLong_FromLong(number);
        }
    }
    PyErr_Format(PyExc_OverflowError, "all %d groups are in use", GROUPS - 2);
    return NULL;
}

static PyObject *py_release(PyObject *Py_UNUSED(module), PyObject *argument)
{
    uint32_t number = open_group(argument);
    if (number == 0) {
        return NULL;
    }
    groups[number].open = false;
    Py_RETURN_NONE;
}

static PyObject *py_enter(PyObject *Py_UNUSED(module), PyObject *argument)
{
    uint32_t number = 0;
    int overflow = 0;
    if (PyLong_AsLongAndOverflow(argument, &overflow) != 0 || PyErr_Occurred()) {
        number = PyErr_Occurred() ? 0 : open_group(argument);
        if (number == 0) {
            return NULL;
        }
    }
    struct record *t = own_record();
    if (t == NULL) {
        return PyErr_NoMemory();
    }
    t->counting = 0; /* the result belongs to nobody */
    PyObject *previous = PyLong_FromLong(t->run == run ? t->group : 0);
    t->counting = t->group;
    if (previous != NULL) {
        turn_to(t, number);
        t->run = run;
    }
    return previous;
}

static PyObject *py_read(PyObject *Py_UNUSED(module), PyObject *argument)
{
    uint32_t number = open_group(argument);
    if (number == 0) {
        return NULL;
    }
    struct reading r = read_group(number);
    return Py_BuildValue("nnnn", r.allocated_bytes, r.allocated_objects, r.freed_bytes, r.freed_objects);
}

static PyObject *py_start(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    struct record *t = own_record();
    if (t == NULL) {
        return PyErr_NoMemory();
    }
    if (active_run() != 0) {
        Py_RETURN_NONE;
    }
    table_clear();
    books_clear();
    atomic_store(&missed, 0);
    run = run == UINT_MAX ? 1 : run + 1;
    for (int domain = 0; domain < DOMAINS; domain++) {
        if (!put_in(t, domain)) {
            while (domain-- > 0) {
                take_out(domain);
            }
            return PyErr_NoMemory();
        }
    }
    atomic_store(&active, run);
    Py_RETURN_NONE;
}

static PyObject *py_stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    atomic_store(&active, 0);
    for (int domain = 0; domain < DOMAINS; domain++) {
        take_out(domain);
    }
    Py_RETURN_NONE;
}

static PyObject *py_status(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    struct record *t = own_record();
    if (t == NULL) {
        return PyErr_NoMemory();
    }
    bool running = active_run() != 0;
    bool whole = running && reached(t, 0) && reached(t, 1) && reached(t, 2);
    return Py_BuildValue("NNnn", PyBool_FromLong(running), PyBool_FromLong(whole), atomic_load(&missed),
                         atomic_load(&table_bytes));
}

static PyMethodDef methods[] = {
    {"register", py_register, METH_NOARGS, NULL}, {"release", py_release, METH_O, NULL},
    {"enter", py_enter, METH_O, NULL},            {"read", py_read, METH_O, NULL},
    {"start", py_start, METH_NOARGS, NULL},       {"stop", py_stop, METH_NOARGS, NULL},
    {"status", py_status, METH_NOARGS, NULL},     {NULL, NULL, 0, NULL},
};

static int execute(PyObject *Py_UNUSED(module))
{
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "an interpreter without the GIL is not supported yet");
    return -1;
#endif
    if (sizeof(void *) < 8) {
        PyErr_SetString(PyExc_ImportError, "blocks of a 32-bit system may share a granule");
        return -1;
    }
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "only the main interpreter can count allocations: hooks are of the process");
        return -1;
    }
    if (prepare_threads() != 0) {
        PyErr_SetString(PyExc_ImportError, "no room for one more thread-specific key");
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "memquota.accounting._allocations",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__allocations(void)
{
    return PyModuleDef_Init(&definition);
}
