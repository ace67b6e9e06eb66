/* What pipeline/codec and parse.py do with ordinary payloads in Python, in one call each, faster.

   Optional: where it was not compiled the Python stands in, and the tests hold both to the same answers. Nothing is
   refused here: whatever is unusual or wrong is left to the Python (None), which says what and where. So each reader below
   takes only what has few parts, and of each part only the form that nearly all have. No read goes beyond the bytes given,
   and no memory is asked for by a count that has not been read to its end. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_sha256.h"

#define LONG_DATA 65536 /* bytes from which on other threads may run meanwhile */
#define FEW 253         /* a count or length from here on takes more than a byte */
#define OUTPOINT 36
#define SEQUENCE 4
#define SMALLEST_TX 61

static PyObject *bytes_of(const uint8_t *at, size_t size) { return PyBytes_FromStringAndSize((const char *)at, (Py_ssize_t)size); }

/* A number in its shortest form, of at most 32 bits: the position behind it, or 0 where there is none. */
static size_t number(const uint8_t *data, size_t size, size_t at, uint64_t *value) {
    if (at >= size) return 0;
    unsigned first = data[at++], width = first < FEW ? 0 : first == FEW ? 2 : 4;
    if (first == 0xFF || size - at < width) return 0;
    *value = first;
    if (width) {
        *value = 0;
        for (unsigned i = 0; i < width; i++) *value |= (uint64_t)data[at + i] << (8 * i);
        if (*value < FEW || (width == 4 && *value < 0x10000)) return 0;
    }
    return at + width;
}

/* --- hashes */

static PyObject *hash256(PyObject *module, PyObject *data) {
    (void)module;
    if (!PyBytes_Check(data)) return PyErr_Format(PyExc_TypeError, "bytes, not %s", Py_TYPE(data)->tp_name);
    uint8_t out[HASH];
    const uint8_t *bytes = (const uint8_t *)PyBytes_AS_STRING(data);
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    if (size < LONG_DATA) {
        twice(bytes, size, out);
    } else {
        Py_BEGIN_ALLOW_THREADS twice(bytes, size, out);
        Py_END_ALLOW_THREADS
    }
    return bytes_of(out, HASH);
}

/* The node above two; 0 where they are equal, which no tree has. */
static int join(const uint8_t *node, const uint8_t *beside, int node_is_right, uint8_t above[HASH]) {
    uint8_t pair[2 * HASH];
    if (memcmp(node, beside, HASH) == 0) return 0;
    memcpy(pair + (node_is_right ? HASH : 0), node, HASH);
    memcpy(pair + (node_is_right ? 0 : HASH), beside, HASH);
    twice(pair, sizeof pair, above);
    return 1;
}

/* --- Merkle paths */

/* A path of two neighbours and one node a level, and the root they lead to. */
typedef struct {
    size_t start, end;
    uint64_t height;
    unsigned depth;
    uint64_t offset[2];
    uint8_t flags[2];
    const uint8_t *leaf[2];
    uint8_t root[HASH];
} Line;

/* Offset, flags (none, or those of a transaction) and hash of a node. The position behind it, or 0. */
static size_t node_at(const uint8_t *data, size_t size, size_t at, uint64_t *offset, uint8_t *flags) {
    at = number(data, size, at, offset);
    if (!at || size - at < 1 + HASH || (data[at] != 0 && data[at] != 2)) return 0;
    *flags = data[at];
    return at + 1 + HASH;
}

static int read_line(const uint8_t *data, size_t size, size_t start, Line *line) {
    size_t at = number(data, size, start, &line->height);
    if (!at || line->height >= 0x80000000 || size - at < 2) return 0;
    line->start = start;
    line->depth = data[at];
    if (line->depth < 1 || line->depth > 32 || data[at + 1] != 2) return 0;
    at += 2;
    for (int i = 0; i < 2; i++) {
        at = node_at(data, size, at, &line->offset[i], &line->flags[i]);
        if (!at) return 0;
        line->leaf[i] = data + at - HASH;
    }
    if (line->offset[1] != (line->offset[0] ^ 1) || !join(line->leaf[0], line->leaf[1], line->offset[0] & 1, line->root)) return 0;
    uint64_t place = line->offset[0] >> 1, offset;
    for (unsigned level = 1; level < line->depth; level++, place >>= 1) {
        uint8_t flags;
        if (at >= size || data[at] != 1) return 0;
        at = node_at(data, size, at + 1, &offset, &flags);
        if (!at || offset != (place ^ 1) || flags || !join(line->root, data + at - HASH, place & 1, line->root)) return 0;
    }
    line->end = at;
    return place == 0;
}

/* What `Bump` takes, in its order. */
static int bump_parts(const uint8_t *data, const Line *line, Py_ssize_t index, PyObject *parts[8]) {
    PyObject *first = PyDict_New(), *flagged = PyList_New(0);
    int good = first && flagged;
    for (int i = 0; good && i < 2; i++) {
        PyObject *offset = PyLong_FromUnsignedLongLong(line->offset[i]), *leaf = bytes_of(line->leaf[i], HASH);
        good = offset && leaf && !PyDict_SetItem(first, offset, leaf) && !(line->flags[i] && PyList_Append(flagged, offset));
        Py_XDECREF(offset);
        Py_XDECREF(leaf);
    }
    parts[0] = PyLong_FromUnsignedLongLong(line->height);
    parts[1] = PyLong_FromLong((long)line->depth);
    parts[2] = first;
    parts[3] = flagged;
    parts[4] = bytes_of(data + line->start, line->end - line->start);
    parts[5] = PyLong_FromSsize_t(index);
    parts[6] = PyList_New(0);
    parts[7] = bytes_of(line->root, HASH);
    for (int i = 0; i < 8; i++) good = good && parts[i];
    return good;
}

/* --- transactions */

typedef struct {
    size_t start, end;
    size_t ins, outs; /* where the first input and the first output begin */
    unsigned inputs, outputs;
    uint8_t txid[HASH];
} Scanned;

/* Where a part ends: `before` bytes, a length and so many, `behind` more. 0: not all is there, or another form. */
static size_t part_end(const uint8_t *data, size_t size, size_t at, size_t before, size_t behind) {
    uint64_t length;
    if (size - at <= before) return 0;
    at = number(data, size, at + before, &length);
    if (!at || size - at < behind || length > size - at - behind) return 0;
    return at + (size_t)length + behind;
}

static int scan(const uint8_t *data, size_t size, size_t start, Scanned *tx) {
    if (start > size || size - start < SMALLEST_TX) return 0;
    size_t at = start + 5;
    tx->start = start;
    tx->inputs = data[at - 1];
    if (tx->inputs == 0 || tx->inputs >= FEW) return 0;
    tx->ins = at;
    for (unsigned i = 0; i < tx->inputs; i++)
        if (!(at = part_end(data, size, at, OUTPOINT, SEQUENCE))) return 0;
    if (at >= size) return 0;
    tx->outputs = data[at++];
    if (tx->outputs == 0 || tx->outputs >= FEW) return 0;
    tx->outs = at;
    for (unsigned i = 0; i < tx->outputs; i++)
        if (!(at = part_end(data, size, at, 8, 0))) return 0;
    if (size - at < 4) return 0;
    tx->end = at + 4;
    if (tx->end - start < SMALLEST_TX || tx->end - start == 2 * HASH) return 0; /* sizes that are refused */
    twice(data + start, tx->end - start, tx->txid);
    return 1;
}

/* Where parts begin in their transaction, and behind the last where they end. */
static PyObject *places(const uint8_t *data, size_t size, const Scanned *tx, size_t at, unsigned count, size_t before, size_t behind) {
    PyObject *found = PyList_New((Py_ssize_t)count + 1);
    for (unsigned part = 0; found && part <= count; part++) {
        PyObject *place = PyLong_FromSize_t(at - tx->start);
        if (!place) Py_CLEAR(found);
        else PyList_SET_ITEM(found, (Py_ssize_t)part, place);
        if (part < count) at = part_end(data, size, at, before, behind);
    }
    return found;
}

/* What `Tx` takes first, in its order. */
static int tx_parts(const uint8_t *data, size_t size, const Scanned *tx, PyObject *parts[5]) {
    parts[0] = bytes_of(tx->txid, HASH);
    parts[1] = bytes_of(data + tx->start, tx->end - tx->start);
    parts[2] = places(data, size, tx, tx->ins, tx->inputs, OUTPOINT, SEQUENCE);
    parts[3] = places(data, size, tx, tx->outs, tx->outputs, 8, 0);
    parts[4] = PyLong_FromSize_t(tx->start);
    return parts[0] && parts[1] && parts[2] && parts[3] && parts[4];
}

/* --- one at a time */

static int data_and_start(PyObject *const *args, Py_ssize_t count, const uint8_t **data, size_t *size, size_t *start) {
    if (count != 3 || !PyBytes_Check(args[0]) || !PyLong_Check(args[1]) || !PyCallable_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "data: bytes, start: int, and what is to be made");
        return 0;
    }
    *data = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    *size = (size_t)PyBytes_GET_SIZE(args[0]);
    *start = PyLong_AsSize_t(args[1]);
    return !PyErr_Occurred();
}

static PyObject *made_of(PyObject *type, PyObject **parts, int count, int good) {
    PyObject *made = good ? PyObject_Vectorcall(type, parts, (size_t)count, NULL) : NULL;
    for (int i = 0; i < count; i++) Py_XDECREF(parts[i]);
    return made;
}

static PyObject *quick_tx(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const uint8_t *data;
    size_t size, start;
    Scanned tx;
    if (!data_and_start(args, count, &data, &size, &start)) return NULL;
    if (!scan(data, size, start, &tx)) Py_RETURN_NONE;
    PyObject *parts[5];
    return made_of(args[2], parts, 5, tx_parts(data, size, &tx, parts));
}

static PyObject *quick_bump(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const uint8_t *data;
    size_t size, start;
    Line line;
    if (!data_and_start(args, count, &data, &size, &start)) return NULL;
    if (!read_line(data, size, start, &line)) Py_RETURN_NONE;
    PyObject *parts[8];
    return made_of(args[2], parts, 8, bump_parts(data, &line, 0, parts));
}

/* --- a whole payload */

#define MOST_BUMPS 32
#define MOST_TXS 64
#define MOST_INPUTS 1024
#define NOBODY MOST_TXS

typedef struct {
    const uint8_t *data;
    size_t size, body; /* where the envelope without an Atomic prefix begins */
    int is_v1;
    unsigned bumps, txs;
    Line line[MOST_BUMPS];
    Scanned tx[MOST_TXS];
    unsigned bump[MOST_TXS]; /* its proof, or MOST_BUMPS */
    unsigned parents[MOST_TXS]; /* where those of a transaction begin */
    uint8_t parent[MOST_INPUTS]; /* by input: a transaction, or NOBODY */
    uint8_t needed[MOST_TXS];    /* no proof covers it or a descendant of its */
} Envelope;

static size_t read_proof(Envelope *all, size_t at, unsigned index) {
    uint64_t bump;
    at = number(all->data, all->size, at, &bump);
    if (!at || bump >= all->bumps) return 0;
    all->bump[index] = (unsigned)bump;
    return at;
}

static int read_envelope(Envelope *all) {
    const uint8_t *data = all->data, *subject = NULL;
    size_t size = all->size, at = 0;
    if (size >= 36 && memcmp(data, "\1\1\1\1", 4) == 0) {
        subject = data + 4;
        at = 36;
    }
    all->body = at;
    if (size - at < 6 || data[at + 2] != 0xBE || data[at + 3] != 0xEF || data[at + 1] != 0 || (data[at] != 1 && data[at] != 2)) return 0;
    all->is_v1 = data[at] == 1;
    all->bumps = data[at + 4];
    if (all->bumps > MOST_BUMPS) return 0;
    at += 5;
    for (unsigned i = 0; i < all->bumps; i++) {
        if (!read_line(data, size, at, &all->line[i])) return 0;
        at = all->line[i].end;
    }
    if (at >= size) return 0;
    all->txs = data[at++];
    if (all->txs < 1 || all->txs > MOST_TXS) return 0;
    for (unsigned i = 0; i < all->txs; i++) {
        all->bump[i] = MOST_BUMPS;
        if (!all->is_v1) {
            if (at >= size || data[at] > 1) return 0;
            at = data[at] ? read_proof(all, at + 1, i) : at + 1;
            if (!at) return 0;
        }
        if (!scan(data, size, at, &all->tx[i])) return 0;
        at = all->tx[i].end;
        if (all->is_v1) {
            if (at >= size || data[at] > 1) return 0;
            at = data[at] ? read_proof(all, at + 1, i) : at + 1;
            if (!at) return 0;
        }
    }
    return at == size && (!subject || memcmp(subject, all->tx[all->txs - 1].txid, HASH) == 0);
}

/* Whether parents stand before children, all of them ancestors of the last one, and of an un-mined one all are there. */
static int link_all(Envelope *all) {
    const uint8_t *data = all->data;
    unsigned inputs = 0;
    uint8_t kept[MOST_TXS];
    for (unsigned i = 0; i < all->txs; i++) {
        const Scanned *tx = &all->tx[i];
        kept[i] = i + 1 == all->txs;
        all->needed[i] = kept[i] && all->bump[i] == MOST_BUMPS;
        all->parents[i] = inputs;
        if (inputs + tx->inputs > MOST_INPUTS) return 0;
        size_t at = tx->ins;
        for (unsigned vin = 0; vin < tx->inputs; vin++, inputs++) {
            all->parent[inputs] = NOBODY;
            for (unsigned j = 0; j < all->txs; j++) {
                if (memcmp(data + at, all->tx[j].txid, HASH)) continue;
                uint32_t vout = data[at + 32] | (uint32_t)data[at + 33] << 8 | (uint32_t)data[at + 34] << 16 | (uint32_t)data[at + 35] << 24;
                if (j >= i || vout >= all->tx[j].outputs) return 0;
                all->parent[inputs] = (uint8_t)j;
                break;
            }
            at = part_end(data, all->size, at, OUTPOINT, SEQUENCE);
        }
        for (unsigned j = 0; j < i; j++)
            if (memcmp(tx->txid, all->tx[j].txid, HASH) == 0) return 0;
    }
    for (unsigned i = all->txs; i-- > 0;) {
        if (!kept[i]) return 0;
        for (unsigned vin = 0; vin < all->tx[i].inputs; vin++) {
            unsigned parent = all->parent[all->parents[i] + vin];
            if (parent == NOBODY) {
                if (all->needed[i]) return 0;
                continue;
            }
            kept[parent] = 1;
            if (all->needed[i] && all->bump[parent] == MOST_BUMPS) all->needed[parent] = 1;
        }
    }
    return 1;
}

/* Whether each proven transaction is a leaf of its proof, none of them in the coinbase's place, and each proof is used and of
   a block of its own. leaf: their places in their blocks. */
static int prove_all(const Envelope *all, long long leaf[MOST_TXS]) {
    uint8_t used[MOST_BUMPS] = {0};
    for (unsigned i = 0; i < all->txs; i++) {
        leaf[i] = -1;
        if (all->bump[i] == MOST_BUMPS) continue;
        const Line *line = &all->line[all->bump[i]];
        int which = memcmp(line->leaf[0], all->tx[i].txid, HASH) == 0 ? 0 : 1;
        if (which == 1 && memcmp(line->leaf[1], all->tx[i].txid, HASH)) return 0;
        static const uint8_t nothing[OUTPOINT] = {[32] = 0xFF, [33] = 0xFF, [34] = 0xFF, [35] = 0xFF};
        if (line->offset[which] == 0 || memcmp(all->data + all->tx[i].ins, nothing, OUTPOINT) == 0) return 0;
        leaf[i] = (long long)line->offset[which];
        used[all->bump[i]] = 1;
    }
    for (unsigned i = 0; i < all->bumps; i++) {
        if (!used[i]) return 0;
        for (unsigned j = 0; j < i; j++)
            if (all->line[i].height == all->line[j].height) return 0;
    }
    return 1;
}

static PyObject *make_tx(const Envelope *all, PyObject *type, unsigned index, long long leaf, PyObject *before) {
    PyObject *parts[9];
    int good = tx_parts(all->data, all->size, &all->tx[index], parts);
    unsigned inputs = all->tx[index].inputs;
    parts[5] = PyLong_FromUnsignedLong(index);
    parts[6] = PyLong_FromLong(all->bump[index] == MOST_BUMPS ? -1 : (long)all->bump[index]);
    parts[7] = PyLong_FromLongLong(leaf);
    parts[8] = PyList_New((Py_ssize_t)inputs);
    for (unsigned vin = 0; parts[8] && vin < inputs; vin++) {
        unsigned place = all->parent[all->parents[index] + vin];
        PyObject *parent = place == NOBODY ? Py_None : PyList_GET_ITEM(before, (Py_ssize_t)place);
        Py_INCREF(parent);
        PyList_SET_ITEM(parts[8], (Py_ssize_t)vin, parent);
    }
    return made_of(type, parts, 9, good && parts[5] && parts[6] && parts[7] && parts[8]);
}

static PyObject *payload_of(const Envelope *all, const long long leaf[MOST_TXS], PyObject *data, PyObject *bump_type, PyObject *tx_type) {
    PyObject *bumps = PyList_New(all->bumps), *roots = PyTuple_New(all->bumps), *txs = PyList_New(all->txs), *unmined = PyList_New(0);
    int good = bumps && roots && txs && unmined;
    for (unsigned i = 0; good && i < all->bumps; i++) {
        PyObject *parts[8], *root;
        PyObject *bump = made_of(bump_type, parts, 8, bump_parts(all->data, &all->line[i], i, parts));
        root = Py_BuildValue("Ky#", (unsigned long long)all->line[i].height, (const char *)all->line[i].root, (Py_ssize_t)HASH);
        good = bump && root;
        if (bump) PyList_SET_ITEM(bumps, i, bump);
        if (root) PyTuple_SET_ITEM(roots, i, root);
    }
    for (unsigned i = 0; good && i < all->txs; i++) {
        PyObject *tx = make_tx(all, tx_type, i, leaf[i], txs);
        good = tx && !(all->needed[i] && PyList_Append(unmined, tx));
        if (tx) PyList_SET_ITEM(txs, i, tx);
    }
    PyObject *received = !good ? NULL : !all->is_v1 ? Py_NewRef(Py_None) : all->body ? bytes_of(all->data + all->body, all->size - all->body) : Py_NewRef(data);
    if (received) return Py_BuildValue("NNNNN", txs, unmined, bumps, roots, received);
    Py_XDECREF(bumps);
    Py_XDECREF(roots);
    Py_XDECREF(txs);
    Py_XDECREF(unmined);
    return NULL;
}

static PyObject *quick_payload(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 3 || !PyBytes_Check(args[0]) || !PyCallable_Check(args[1]) || !PyCallable_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "quick_payload(data: bytes, Bump, Tx)");
        return NULL;
    }
    Envelope all;
    long long leaf[MOST_TXS];
    all.data = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    all.size = (size_t)PyBytes_GET_SIZE(args[0]);
    if (!read_envelope(&all) || !link_all(&all) || !prove_all(&all, leaf)) Py_RETURN_NONE;
    return payload_of(&all, leaf, args[0], args[1], args[2]);
}

/* --- what a transaction spends and makes */

#define MOST_SATOSHIS 2100000000000000ULL

static PyObject *raw_name, *outs_name;

/* An item of a list of places, or SIZE_MAX. */
static size_t place_in(PyObject *list, Py_ssize_t at) {
    if (at >= PyList_GET_SIZE(list) || !PyLong_Check(PyList_GET_ITEM(list, at))) return SIZE_MAX;
    size_t place = PyLong_AsSize_t(PyList_GET_ITEM(list, at));
    if (place == SIZE_MAX) PyErr_Clear();
    return place;
}

/* The value that begins at `at`, added; 0: beyond all there can be. */
static int add_satoshis(const uint8_t *at, uint64_t *sum) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | at[i];
    *sum += value;
    return value <= MOST_SATOSHIS;
}

/* The output of `parent` that the outpoint at `at` names, as it stands; NULL, perhaps without an error: another form. */
static PyObject *coin_of(PyObject *parent, const uint8_t *at) {
    PyObject *raw = PyObject_GetAttr(parent, raw_name), *outs = raw ? PyObject_GetAttr(parent, outs_name) : NULL, *coin = NULL;
    if (outs && PyBytes_Check(raw) && PyList_Check(outs)) {
        uint32_t vout = at[32] | (uint32_t)at[33] << 8 | (uint32_t)at[34] << 16 | (uint32_t)at[35] << 24;
        size_t start = place_in(outs, vout), end = place_in(outs, (Py_ssize_t)vout + 1), size = (size_t)PyBytes_GET_SIZE(raw);
        if (start < end && end - start >= 9 && end <= size) coin = bytes_of((const uint8_t *)PyBytes_AS_STRING(raw) + start, end - start);
    }
    Py_XDECREF(raw);
    Py_XDECREF(outs);
    return coin;
}

static PyObject *quick_coins(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "quick_coins(raw: bytes, ins, outs, parents)");
        return NULL;
    }
    if (!PyList_Check(args[1]) || !PyList_Check(args[2]) || !PyList_Check(args[3])) Py_RETURN_NONE;
    const uint8_t *raw = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    size_t size = (size_t)PyBytes_GET_SIZE(args[0]);
    Py_ssize_t inputs = PyList_GET_SIZE(args[3]), outputs = PyList_GET_SIZE(args[2]) - 1;
    uint64_t brought = 0, made = 0;
    if (inputs > FEW || outputs > FEW || PyList_GET_SIZE(args[1]) != inputs + 1) Py_RETURN_NONE;
    for (Py_ssize_t vout = 0; vout < outputs; vout++) {
        size_t at = place_in(args[2], vout);
        if (size < 8 || at > size - 8 || !add_satoshis(raw + at, &made)) Py_RETURN_NONE;
    }
    PyObject *coins = PyList_New(inputs);
    for (Py_ssize_t vin = 0; coins && vin < inputs; vin++) {
        size_t at = place_in(args[1], vin);
        PyObject *coin = size < OUTPOINT || at > size - OUTPOINT ? NULL : coin_of(PyList_GET_ITEM(args[3], vin), raw + at);
        if (!coin || !add_satoshis((const uint8_t *)PyBytes_AS_STRING(coin), &brought)) {
            Py_XDECREF(coin);
            Py_DECREF(coins);
            if (PyErr_Occurred()) return NULL;
            Py_RETURN_NONE;
        }
        PyList_SET_ITEM(coins, vin, coin);
    }
    return coins ? Py_BuildValue("NKK", coins, (unsigned long long)brought, (unsigned long long)made) : NULL;
}

static PyMethodDef methods[] = {
    {"quick_coins", (PyCFunction)(void (*)(void))quick_coins, METH_FASTCALL, "The coins a transaction spends, their satoshis and those it makes; None where one is missing or much."},
    {"hash256", hash256, METH_O, "Double SHA-256 of bytes, in wire order."},
    {"quick_bump", (PyCFunction)(void (*)(void))quick_bump, METH_FASTCALL, "A Merkle path that is a line, with its root; None of any other."},
    {"quick_tx", (PyCFunction)(void (*)(void))quick_tx, METH_FASTCALL, "A transaction of few inputs and outputs; None of any other."},
    {"quick_payload", (PyCFunction)(void (*)(void))quick_payload, METH_FASTCALL, "An ordinary payload, linked; None of any other."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_quick", "See pipeline/codec/quick.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__quick(void) {
    choose_sha256();
    raw_name = PyUnicode_InternFromString("raw");
    outs_name = PyUnicode_InternFromString("outs");
    return raw_name && outs_name ? PyModule_Create(&definition) : NULL;
}
