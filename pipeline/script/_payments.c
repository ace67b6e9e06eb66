/* What the signatures of an ordinary payment sign, in one call a transaction: what templates.py, signature.py and sighash.py
   do for it in Python, faster.

   Ordinary: every input spends a P2PKH coin with one signature and one key, each by the shortest push; the signature as
   wallets make them (numbers of 32 bytes, S low by its first byte, ALL | FORKID), the key of the form the network takes and
   of the hash that the coin names. Of anything else nothing is said (None): it is left to the Python, which alone refuses.
   Optional, like codec/_quick.c. RIPEMD-160 is that of its authors' description (1996). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../codec/_sha256.h"

#define HASH160 20
#define OUTPOINT 36
#define SEQUENCE 4
#define COIN 34   /* value, length, script of a P2PKH output */
#define MOST 256  /* inputs; Python keeps the places of more in another form */
#define LONGEST 72 /* bytes of an ordinary signature with its hash type: one more where R begins with a zero */
#define ALL_FORKID 0x41

static uint32_t turned(uint32_t word, int by) { return (word << by) | (word >> (32 - by)); }

static const uint8_t LEFT_WORD[80] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8,
    3, 10, 14, 4, 9, 15, 8, 1, 2, 7, 0, 6, 13, 11, 5, 12, 1, 9, 11, 10, 0, 8, 12, 4, 13, 3, 7, 15, 14, 5, 6, 2,
    4, 0, 5, 9, 7, 12, 2, 10, 14, 1, 3, 8, 11, 6, 15, 13};
static const uint8_t RIGHT_WORD[80] = {
    5, 14, 7, 0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12, 6, 11, 3, 7, 0, 13, 5, 10, 14, 15, 8, 12, 4, 9, 1, 2,
    15, 5, 1, 3, 7, 14, 6, 9, 11, 8, 12, 2, 10, 0, 4, 13, 8, 6, 4, 1, 3, 11, 15, 0, 5, 12, 2, 13, 9, 7, 10, 14,
    12, 15, 10, 4, 1, 5, 8, 7, 6, 2, 13, 14, 0, 3, 9, 11};
static const uint8_t LEFT_TURN[80] = {
    11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8, 7, 6, 8, 13, 11, 9, 7, 15, 7, 12, 15, 9, 11, 7, 13, 12,
    11, 13, 6, 7, 14, 9, 13, 15, 14, 8, 13, 6, 5, 12, 7, 5, 11, 12, 14, 15, 14, 15, 9, 8, 9, 14, 5, 6, 8, 6, 5, 12,
    9, 15, 5, 11, 6, 8, 13, 12, 5, 12, 13, 14, 11, 8, 5, 6};
static const uint8_t RIGHT_TURN[80] = {
    8, 9, 9, 11, 13, 15, 15, 5, 7, 7, 8, 11, 14, 14, 12, 6, 9, 13, 15, 7, 12, 8, 9, 11, 7, 7, 12, 7, 6, 15, 13, 11,
    9, 7, 15, 11, 8, 6, 6, 14, 12, 13, 5, 14, 13, 13, 7, 5, 15, 5, 8, 11, 14, 14, 6, 14, 6, 9, 12, 9, 12, 5, 15, 8,
    8, 5, 12, 9, 12, 5, 14, 6, 8, 13, 6, 5, 15, 13, 11, 11};
static const uint32_t LEFT_ADDED[5] = {0, 0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xa953fd4e};
static const uint32_t RIGHT_ADDED[5] = {0x50a28be6, 0x5c4dd124, 0x6d703ef3, 0x7a6d76e9, 0};

static uint32_t mixed(int kind, uint32_t x, uint32_t y, uint32_t z) {
    switch (kind) {
    case 0: return x ^ y ^ z;
    case 1: return (x & y) | (~x & z);
    case 2: return (x | ~y) ^ z;
    case 3: return (x & z) | (y & ~z);
    default: return x ^ (y | ~z);
    }
}

static void lane(uint32_t v[5], const uint32_t words[16], const uint8_t *word, const uint8_t *turn, const uint32_t *added, int backwards) {
    for (int round = 0; round < 5; round++)
        for (int i = 16 * round; i < 16 * round + 16; i++) {
            uint32_t sum = v[0] + mixed(backwards ? 4 - round : round, v[1], v[2], v[3]) + words[word[i]] + added[round];
            uint32_t next = turned(sum, turn[i]) + v[4];
            v[0] = v[4];
            v[4] = v[3];
            v[3] = turned(v[2], 10);
            v[2] = v[1];
            v[1] = next;
        }
}

/* Of 32 bytes: the only length that is needed. */
static void ripemd160(const uint8_t data[HASH], uint8_t out[HASH160]) {
    static const uint32_t start[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint32_t words[16] = {0}, left[5], right[5], sum[5];
    for (int i = 0; i < 8; i++)
        words[i] = (uint32_t)data[4 * i] | (uint32_t)data[4 * i + 1] << 8 | (uint32_t)data[4 * i + 2] << 16 | (uint32_t)data[4 * i + 3] << 24;
    words[8] = 0x80;
    words[14] = 8 * HASH;
    memcpy(left, start, sizeof left);
    memcpy(right, start, sizeof right);
    lane(left, words, LEFT_WORD, LEFT_TURN, LEFT_ADDED, 0);
    lane(right, words, RIGHT_WORD, RIGHT_TURN, RIGHT_ADDED, 1);
    for (int i = 0; i < 5; i++) sum[i] = start[(i + 1) % 5] + left[(i + 2) % 5] + right[(i + 3) % 5];
    for (int i = 0; i < HASH160; i++) out[i] = (uint8_t)(sum[i / 4] >> (8 * (i % 4)));
}

/* An input and what it spends, by where they stand. */
typedef struct {
    const uint8_t *at;   /* its outpoint */
    const uint8_t *end;  /* behind its sequence */
    const uint8_t *coin; /* COIN bytes */
    const uint8_t *der;
    size_t der_size;
    const uint8_t *key;
    size_t key_size;
} Input;

/* Whether `size` bytes are a signature of the ordinary form with the ordinary hash type: see `ordinary` in signature.py. */
static int is_ordinary(const uint8_t *der, size_t size) {
    size_t extra = size - (LONGEST - 1); /* a zero before R */
    if (extra > 1 || der[0] != 0x30 || der[1] != 0x44 + extra || der[2] != 2 || der[3] != 32 + extra) return 0;
    if (extra ? der[4] != 0 || der[5] < 0x80 : der[4] < 1 || der[4] > 0x7f) return 0;
    const uint8_t *s = der + 4 + 32 + extra;
    return s[0] == 2 && s[1] == 32 && s[2] >= 1 && s[2] <= 0x7e && der[size - 1] == ALL_FORKID;
}

static int read_input(const uint8_t *raw, size_t at, size_t end, const uint8_t *coin, Input *input) {
    size_t length = end - at < OUTPOINT + 1 + SEQUENCE ? 0 : raw[at + OUTPOINT];
    if (length < 2 || length >= 0xFD || at + OUTPOINT + 1 + length + SEQUENCE != end) return 0;
    const uint8_t *script = raw + at + OUTPOINT + 1;
    size_t signature = script[0];
    if (signature > LONGEST || signature + 2 > length) return 0;
    size_t key = script[signature + 1];
    if (signature + 2 + key != length || signature < LONGEST - 1 || !is_ordinary(script + 1, signature)) return 0;
    const uint8_t *bytes = script + signature + 2;
    if (!(key == 33 && (bytes[0] == 2 || bytes[0] == 3)) && !(key == 65 && bytes[0] == 4)) return 0;
    static const uint8_t before[4] = {25, 0x76, 0xa9, 20}, behind[2] = {0x88, 0xac};
    if (memcmp(coin + 8, before, sizeof before) || memcmp(coin + 32, behind, sizeof behind)) return 0;
    uint8_t once[HASH], hashed[HASH160];
    sha256(bytes, key, once);
    ripemd160(once, hashed);
    if (memcmp(hashed, coin + 12, HASH160)) return 0;
    *input = (Input){raw + at, raw + end, coin, script + 1, signature - 1, bytes, key};
    return 1;
}

static void digest(const uint8_t *raw, size_t size, const Input *input, const uint8_t shared[3 * HASH], uint8_t out[HASH]) {
    uint8_t signs[4 + 2 * HASH + OUTPOINT + COIN + SEQUENCE + HASH + 4 + 4], *to = signs;
#define ADD(from, bytes) (memcpy(to, from, bytes), to += (bytes))
    static const uint8_t kind[4] = {ALL_FORKID, 0, 0, 0};
    ADD(raw, 4);
    ADD(shared, 2 * HASH);
    ADD(input->at, OUTPOINT);
    ADD(input->coin + 8, COIN - 8);
    ADD(input->coin, 8);
    ADD(input->end - SEQUENCE, SEQUENCE);
    ADD(shared + 2 * HASH, HASH);
    ADD(raw + size - 4, 4);
    ADD(kind, 4);
#undef ADD
    twice(signs, sizeof signs, out);
}

static PyObject *payments(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4 || !PyBytes_Check(args[0]) || !PyList_Check(args[1]) || !PyLong_Check(args[2]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "payments(raw: bytes, ins: list of int, outs: int, coins: list of bytes)");
        return NULL;
    }
    const uint8_t *raw = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    size_t size = (size_t)PyBytes_GET_SIZE(args[0]), outs = PyLong_AsSize_t(args[2]);
    if (outs == (size_t)-1 && PyErr_Occurred()) return NULL;
    Py_ssize_t inputs = PyList_GET_SIZE(args[3]);
    if (inputs < 1 || inputs > MOST || PyList_GET_SIZE(args[1]) != inputs + 1 || size < 8 || outs > size - 4) Py_RETURN_NONE;
    Input found[MOST];
    uint8_t outpoints[MOST * OUTPOINT], sequences[MOST * SEQUENCE];
    for (Py_ssize_t vin = 0; vin < inputs; vin++) {
        PyObject *coin = PyList_GET_ITEM(args[3], vin), *first = PyList_GET_ITEM(args[1], vin), *last = PyList_GET_ITEM(args[1], vin + 1);
        if (!PyBytes_Check(coin) || !PyLong_Check(first) || !PyLong_Check(last)) return PyErr_Format(PyExc_TypeError, "an input of another type");
        size_t at = PyLong_AsSize_t(first), end = PyLong_AsSize_t(last);
        if (PyErr_Occurred()) return NULL;
        if (PyBytes_GET_SIZE(coin) != COIN || at >= end || end > size - 4) Py_RETURN_NONE;
        if (!read_input(raw, at, end, (const uint8_t *)PyBytes_AS_STRING(coin), &found[vin])) Py_RETURN_NONE;
        memcpy(outpoints + vin * OUTPOINT, raw + at, OUTPOINT);
        memcpy(sequences + vin * SEQUENCE, raw + end - SEQUENCE, SEQUENCE);
    }
    uint8_t shared[3 * HASH], out[HASH];
    twice(outpoints, (size_t)inputs * OUTPOINT, shared);
    twice(sequences, (size_t)inputs * SEQUENCE, shared + HASH);
    twice(raw + outs, size - 4 - outs, shared + 2 * HASH);
    PyObject *signed_by = PyList_New(inputs);
    for (Py_ssize_t vin = 0; signed_by && vin < inputs; vin++) {
        const Input *one = &found[vin];
        digest(raw, size, one, shared, out);
        PyObject *made = Py_BuildValue("y#y#y#", (const char *)one->der, (Py_ssize_t)one->der_size, (const char *)out, (Py_ssize_t)HASH,
                                       (const char *)one->key, (Py_ssize_t)one->key_size);
        if (!made) Py_CLEAR(signed_by);
        else PyList_SET_ITEM(signed_by, vin, made);
    }
    return signed_by;
}

static PyMethodDef methods[] = {
    {"payments", (PyCFunction)(void (*)(void))payments, METH_FASTCALL, "DER, digest and key of each input of an ordinary payment; None of any other."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_payments", "See pipeline/script/templates.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__payments(void) {
    choose_sha256();
    return PyModule_Create(&definition);
}
