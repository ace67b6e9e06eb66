/* Sums of 1,024 lanes of 16 bits, and SHAKE-128 (FIPS 202), which makes an element's: what pipeline/lthash.py does in
   Python, faster. Several elements are hashed side by side where the processor has the instructions for it.

   Optional: where it was not compiled the Python stands in, and the tests hold both to the same answers. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define LANES 1024
#define BYTES (2 * LANES)
#define WORDS (BYTES / 8)

#define STATE 25 /* words */
#define RATE 21  /* words of the state that take what is hashed, and give the hash */
#define RATE_BYTES (8 * RATE)

#define MANY 32 /* elements worth giving others the interpreter for: a fifth of a millisecond where they are hashed one by one */

static const uint16_t first_byte = 1;

static const uint64_t ROUND[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000, 0x000000000000808b, 0x0000000080000001,
    0x8000000080008081, 0x8000000000008009, 0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
    0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003, 0x8000000000008002, 0x8000000000000080,
    0x000000000000800a, 0x800000008000000a, 0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008};

/* Keccak-f[1600] on words of any type that has the operators: each round's five steps, as FIPS 202 names them. */
#define ROTATED(word, by) ((word) << (by) | (word) >> (64 - (by)))
#define MOVED(to, from, by) moved[to] = ROTATED(s[from], by)
#define PERMUTE(word)                                                                                                  \
    for (int round = 0; round < 24; round++) {                                                                         \
        word column[5], moved[STATE];                                                                                  \
        _Pragma("GCC unroll 5") for (int x = 0; x < 5; x++) column[x] = s[x] ^ s[x + 5] ^ s[x + 10] ^ s[x + 15] ^ s[x + 20]; \
        _Pragma("GCC unroll 5") for (int x = 0; x < 5; x++) {                                                          \
            word theta = column[(x + 4) % 5] ^ ROTATED(column[(x + 1) % 5], 1);                                        \
            _Pragma("GCC unroll 5") for (int y = 0; y < STATE; y += 5) s[x + y] ^= theta;                              \
        }                                                                                                              \
        moved[0] = s[0];                                                                                               \
        MOVED(10, 1, 1), MOVED(20, 2, 62), MOVED(5, 3, 28), MOVED(15, 4, 27), MOVED(16, 5, 36), MOVED(1, 6, 44);       \
        MOVED(11, 7, 6), MOVED(21, 8, 55), MOVED(6, 9, 20), MOVED(7, 10, 3), MOVED(17, 11, 10), MOVED(2, 12, 43);      \
        MOVED(12, 13, 25), MOVED(22, 14, 39), MOVED(23, 15, 41), MOVED(8, 16, 45), MOVED(18, 17, 15), MOVED(3, 18, 21); \
        MOVED(13, 19, 8), MOVED(14, 20, 18), MOVED(24, 21, 2), MOVED(9, 22, 61), MOVED(19, 23, 56), MOVED(4, 24, 14);  \
        _Pragma("GCC unroll 5") for (int y = 0; y < STATE; y += 5)                                                     \
            _Pragma("GCC unroll 5") for (int x = 0; x < 5; x++)                                                        \
                s[x + y] = moved[x + y] ^ (~moved[(x + 1) % 5 + y] & moved[(x + 2) % 5 + y]);                          \
        s[0] ^= ROUND[round];                                                                                          \
    }

typedef struct {
    const uint8_t *bytes;
    Py_ssize_t size;
    int away; /* it left the set, and did not come */
} element;

static void permute(uint64_t s[STATE]) { PERMUTE(uint64_t) }

static void mix_in(uint64_t s[STATE], const uint8_t block[RATE_BYTES]) {
    for (int n = 0; n < RATE; n++) {
        uint64_t word;
        memcpy(&word, block + 8 * n, 8);
        s[n] ^= word;
    }
}

/* The state that all of an element was mixed into, before the permutation that gives the first of its hash. */
static void absorb(uint64_t s[STATE], const element *each) {
    uint8_t last[RATE_BYTES] = {0};
    const uint8_t *at = each->bytes, *end = at + each->size;
    memset(s, 0, STATE * sizeof *s);
    for (; end - at >= RATE_BYTES; at += RATE_BYTES) {
        mix_in(s, at);
        permute(s);
    }
    memcpy(last, at, (size_t)(end - at));
    last[end - at] ^= 0x1f;
    last[RATE_BYTES - 1] ^= 0x80;
    mix_in(s, last);
}

/* One type for a row of lanes and a row of words: added, lanes do not carry into each other. */
typedef union {
    uint64_t word[WORDS];
    uint16_t lane[LANES];
} sum;

static void add_lanes(sum *total, const sum *lanes) {
    for (int n = 0; n < LANES; n++) total->lane[n] = (uint16_t)(total->lane[n] + lanes->lane[n]);
}

static void take_lanes(sum *total, const sum *lanes) {
    for (int n = 0; n < LANES; n++) total->lane[n] = (uint16_t)(total->lane[n] - lanes->lane[n]);
}

typedef void (*fold_elements)(sum *total, const element *elements, Py_ssize_t count);

static void fold_plain(sum *total, const element *elements, Py_ssize_t count) {
    for (Py_ssize_t at = 0; at < count; at++) {
        uint64_t s[STATE];
        sum found;
        absorb(s, elements + at);
        for (int done = 0; done < WORDS; done += RATE) {
            permute(s);
            memcpy(found.word + done, s, 8 * (size_t)(WORDS - done < RATE ? WORDS - done : RATE));
        }
        (elements[at].away ? take_lanes : add_lanes)(total, &found);
    }
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define BESIDE 4
typedef uint64_t words __attribute__((vector_size(8 * BESIDE)));
typedef uint16_t lanes __attribute__((vector_size(8 * BESIDE)));

/* Four elements beside each other: a vector holds the same word of each. */
__attribute__((target("avx2"))) static void fold_beside(sum *total, const element *elements, Py_ssize_t count) {
    if (count < 2) {
        fold_plain(total, elements, count);
        return;
    }
    lanes sums[WORDS];
    memset(sums, 0, sizeof sums);
    for (Py_ssize_t at = 0; at < count; at += BESIDE) {
        words s[STATE], there = {0}, away = {0};
        memset(s, 0, sizeof s);
        for (int n = 0; n < BESIDE && at + n < count; n++) {
            uint64_t alone[STATE];
            absorb(alone, elements + at + n);
            for (int word = 0; word < STATE; word++) s[word][n] = alone[word];
            there[n] = UINT64_MAX;
            away[n] = elements[at + n].away ? UINT64_MAX : 0;
        }
        for (int done = 0; done < WORDS; done += RATE) {
            PERMUTE(words)
            for (int n = 0; n < RATE && done + n < WORDS; n++) /* -x is what x is not, and one */
                sums[done + n] += (lanes)((s[n] ^ away) & there) - (lanes)away;
        }
    }
    for (int n = 0; n < BESIDE; n++) {
        sum part;
        for (int word = 0; word < WORDS; word++) part.word[word] = ((words)sums[word])[n];
        add_lanes(total, &part);
    }
}

#define CHOOSE_FOLD __builtin_cpu_supports("avx2") ? fold_beside : fold_plain
#else
#define CHOOSE_FOLD fold_plain
#endif

static fold_elements fold = fold_plain;

static int read_sum(PyObject *value, sum *into) {
    if (!PyBytes_Check(value) || PyBytes_GET_SIZE(value) != BYTES) {
        PyErr_SetString(PyExc_ValueError, "2,048 bytes are expected");
        return -1;
    }
    memcpy(into, PyBytes_AS_STRING(value), BYTES); /* bytes may stand anywhere */
    return 0;
}

static int fold_lanes(sum *total, PyObject *some, int away) {
    PyObject *all = PySequence_Fast(some, "a sequence of bytes is expected");
    if (!all) return -1;
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(all); at++) {
        sum lanes;
        if (read_sum(PySequence_Fast_GET_ITEM(all, at), &lanes) < 0) {
            Py_DECREF(all);
            return -1;
        }
        (away ? take_lanes : add_lanes)(total, &lanes);
    }
    Py_DECREF(all);
    return 0;
}

static int expects_three(Py_ssize_t count) {
    if (count == 3) return 1;
    PyErr_SetString(PyExc_TypeError, "total, removed, added");
    return 0;
}

static PyObject *moved(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    sum total;
    (void)module;
    if (!expects_three(count) || read_sum(args[0], &total) < 0) return NULL;
    if (fold_lanes(&total, args[1], 1) < 0 || fold_lanes(&total, args[2], 0) < 0) return NULL;
    return PyBytes_FromStringAndSize((const char *)&total, BYTES);
}

static int collect(element *into, PyObject *some, int away) {
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(some); at++) {
        PyObject *each = PyTuple_GET_ITEM(some, at);
        if (!PyBytes_Check(each)) {
            PyErr_SetString(PyExc_TypeError, "elements are bytes");
            return -1;
        }
        into[at] = (element){(const uint8_t *)PyBytes_AS_STRING(each), PyBytes_GET_SIZE(each), away};
    }
    return 0;
}

/* removed, added: tuples of ours, which hold the elements where they are while others have the interpreter. */
static PyObject *sum_after(PyObject *before, PyObject *removed, PyObject *added) {
    sum total;
    Py_ssize_t gone = PyTuple_GET_SIZE(removed), count = gone + PyTuple_GET_SIZE(added);
    element few[MANY], *elements = count < MANY ? few : PyMem_New(element, count);
    PyObject *found = NULL;
    if (!elements) return PyErr_NoMemory();
    if (!read_sum(before, &total) && !collect(elements, removed, 1) && !collect(elements + gone, added, 0)) {
        if (count < MANY) {
            fold(&total, elements, count);
        } else {
            Py_BEGIN_ALLOW_THREADS
            fold(&total, elements, count);
            Py_END_ALLOW_THREADS
        }
        found = PyBytes_FromStringAndSize((const char *)&total, BYTES);
    }
    if (elements != few) PyMem_Free(elements);
    return found;
}

static PyObject *changed(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (!expects_three(count)) return NULL;
    PyObject *removed = PySequence_Tuple(args[1]), *added = removed ? PySequence_Tuple(args[2]) : NULL;
    PyObject *found = added ? sum_after(args[0], removed, added) : NULL;
    Py_XDECREF(removed);
    Py_XDECREF(added);
    return found;
}

static PyMethodDef methods[] = {
    {"moved", (PyCFunction)(void (*)(void))moved, METH_FASTCALL, "The sum without some lanes and with others."},
    {"changed", (PyCFunction)(void (*)(void))changed, METH_FASTCALL, "The sum after elements went and came."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_lanes", "See pipeline/lthash.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__lanes(void) {
    if (*(const uint8_t *)&first_byte != 1) { /* lanes are little-endian: elsewhere the Python does it */
        PyErr_SetString(PyExc_ImportError, "a little-endian machine is expected");
        return NULL;
    }
    fold = CHOOSE_FOLD;
    return PyModule_Create(&definition);
}
