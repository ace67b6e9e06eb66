/* Sums of 1,024 lanes of 16 bits: what pipeline/lthash.py does in Python, faster.

   Optional: where it was not compiled the Python stands in, and the tests hold both to the same answers. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define LANES 1024
#define BYTES (2 * LANES)

static const uint16_t one = 1;

static int lanes_of(PyObject *value, const char **bytes) {
    if (!PyBytes_Check(value) || PyBytes_GET_SIZE(value) != BYTES) {
        PyErr_SetString(PyExc_ValueError, "2,048 bytes are expected");
        return -1;
    }
    *bytes = PyBytes_AS_STRING(value);
    return 0;
}

static int fold(uint16_t *sum, PyObject *elements, int away) {
    PyObject *all = PySequence_Fast(elements, "a sequence of bytes is expected");
    if (!all) return -1;
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(all); at++) {
        const char *bytes;
        uint16_t lane[LANES];
        if (lanes_of(PySequence_Fast_GET_ITEM(all, at), &bytes) < 0) {
            Py_DECREF(all);
            return -1;
        }
        memcpy(lane, bytes, BYTES); /* bytes may stand anywhere */
        if (away)
            for (int n = 0; n < LANES; n++) sum[n] = (uint16_t)(sum[n] - lane[n]);
        else
            for (int n = 0; n < LANES; n++) sum[n] = (uint16_t)(sum[n] + lane[n]);
    }
    Py_DECREF(all);
    return 0;
}

static PyObject *moved(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    const char *bytes;
    uint16_t sum[LANES];
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "total, removed, added");
        return NULL;
    }
    if (lanes_of(args[0], &bytes) < 0) return NULL;
    memcpy(sum, bytes, BYTES);
    if (fold(sum, args[1], 1) < 0 || fold(sum, args[2], 0) < 0) return NULL;
    return PyBytes_FromStringAndSize((const char *)sum, BYTES);
}

static PyMethodDef methods[] = {
    {"moved", (PyCFunction)(void (*)(void))moved, METH_FASTCALL, "The sum without some elements and with others."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_lanes", "See pipeline/lthash.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__lanes(void) {
    if (*(const uint8_t *)&one != 1) { /* lanes are little-endian: elsewhere the Python does it */
        PyErr_SetString(PyExc_ImportError, "a little-endian machine is expected");
        return NULL;
    }
    return PyModule_Create(&definition);
}
