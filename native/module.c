/* everlong._native: the kernels as Python calls them, with addresses and sizes. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "attention.h"
#include "cpu.h"
#include "gguf.h"
#include "linear.h"
#include "masses.h"
#include "packing.h"
#include "program.h"
#include "reading.h"
#include "token.h"
#include "turn.h"

#define INTERFACE 7 /* changes with what the functions take, and in ops/native.py */

static const char *const LEVELS[] = {"scalar", "avx2", "avx512", "vnni"};
static enum level level;

/* `wanted` whole numbers; 0 with an error set where they are not. */
static int numbers(const char *name, PyObject *const *given, Py_ssize_t count, int wanted, long long *value) {
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "%s: %zd arguments, expected %d", name, count, wanted);
        return 0;
    }
    for (int i = 0; i < wanted; i++) {
        value[i] = PyLong_AsLongLong(given[i]);
        if (value[i] == -1 && PyErr_Occurred())
            return 0;
        if (value[i] < 0) {
            PyErr_Format(PyExc_ValueError, "%s: argument %d is negative", name, i + 1);
            return 0;
        }
    }
    return 1;
}

/* linear(out, x, weight, bias, rows, outputs, inputs, format, half, threads) */
static PyObject *call_linear(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[10];
    if (!numbers("linear", given, count, 10, value))
        return NULL;
    struct linear call = {
        .out = (void *)(intptr_t)value[0],
        .x = (const void *)(intptr_t)value[1],
        .weight = (const void *)(intptr_t)value[2],
        .bias = (const void *)(intptr_t)value[3],
        .rows = value[4],
        .outputs = value[5],
        .inputs = value[6],
        .format = (enum format)value[7],
        .half = (int)value[8],
        .threads = (int)value[9],
        .level = level,
    };
    if (value[7] > F32) {
        PyErr_Format(PyExc_ValueError, "linear: format %lld, expected 0 to 3", value[7]);
        return NULL;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = linear(&call);
    Py_END_ALLOW_THREADS;
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* unpack(out, weight, panels, inputs, format, half, threads) */
static PyObject *call_unpack(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[7];
    if (!numbers("unpack", given, count, 7, value))
        return NULL;
    struct unpacking call = {
        .out = (void *)(intptr_t)value[0],
        .weight = (const void *)(intptr_t)value[1],
        .panels = value[2],
        .inputs = value[3],
        .format = (enum format)value[4],
        .half = (int)value[5],
        .threads = (int)value[6],
        .level = level,
    };
    if (value[4] > Q8) {
        PyErr_Format(PyExc_ValueError, "unpack: format %lld, expected 0 or 1", value[4]);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    unpack(&call);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* token(structure): its address, a `struct token` */
static PyObject *call_token(PyObject *self, PyObject *given) {
    const struct token *token = PyLong_AsVoidPtr(given);
    if (!token) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "token: no address");
        return NULL;
    }
    if (token->ranges_each > MOST_TOKEN_RANGES) {
        PyErr_Format(PyExc_ValueError, "token: %lld ranges, expected at most 16", (long long)token->ranges_each);
        return NULL;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = run_token(token, level);
    Py_END_ALLOW_THREADS;
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

#define MOST_RANGES 16

/* attention(out, shares, aux, heads, kv heads, dim, scale, half, threads, then of each range: q, k, v, n, runs, strides) */
static PyObject *call_attention(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[9 + 7 * MOST_RANGES];
    struct key_range ranges[MOST_RANGES];
    int found = (int)((count - 9) / 7);
    if (found < 1 || found > MOST_RANGES || !PyFloat_Check(given[6])) {
        PyErr_Format(PyExc_TypeError, "attention: %zd arguments, expected 9 and 7 for each of 1 to 16 ranges", count);
        return NULL;
    }
    float scale = (float)PyFloat_AS_DOUBLE(given[6]);
    if (!numbers("attention", given, 6, 6, value) || !numbers("attention", given + 7, count - 7, 2 + 7 * found, value + 7))
        return NULL;
    for (int r = 0; r < found; r++) {
        const long long *of = value + 9 + 7 * r;
        ranges[r] = (struct key_range){(const void *)(intptr_t)of[0], (const void *)(intptr_t)of[1],
                                       (const void *)(intptr_t)of[2], of[3], of[4], of[5], of[6]};
    }
    struct attention call = {
        .out = (void *)(intptr_t)value[0],
        .shares = (float *)(intptr_t)value[1],
        .aux = (const float *)(intptr_t)value[2],
        .heads = value[3],
        .kv_heads = value[4],
        .dim = value[5],
        .scale = scale,
        .half = (int)value[7],
        .threads = (int)value[8],
        .ranges = ranges,
        .count = found,
        .level = level,
    };
    if (call.kv_heads < 1 || call.heads % call.kv_heads || call.dim % HEAD_MULTIPLE) {
        PyErr_Format(PyExc_ValueError, "attention: heads of %lld numbers, expected a multiple of 16", value[5]);
        return NULL;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = attention(&call);
    Py_END_ALLOW_THREADS;
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* reading(out, aux, heads, kv heads, dim, tokens, scale, half, threads, then of each part: q, k, v, lo, hi, strides) */
static PyObject *call_reading(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[9 + 9 * MOST_RANGES];
    struct part parts[MOST_RANGES];
    int found = (int)((count - 9) / 9);
    if (found < 1 || found > MOST_RANGES || !PyFloat_Check(given[6])) {
        PyErr_Format(PyExc_TypeError, "reading: %zd arguments, expected 9 and 9 for each of 1 to 16 parts", count);
        return NULL;
    }
    float scale = (float)PyFloat_AS_DOUBLE(given[6]);
    if (!numbers("reading", given, 6, 6, value) || !numbers("reading", given + 7, count - 7, 2 + 9 * found, value + 7))
        return NULL;
    for (int p = 0; p < found; p++) {
        const long long *of = value + 9 + 9 * p;
        parts[p] = (struct part){(const void *)(intptr_t)of[0], (const void *)(intptr_t)of[1],
                                 (const void *)(intptr_t)of[2], (const int64_t *)(intptr_t)of[3],
                                 (const int64_t *)(intptr_t)of[4], of[5], of[6], of[7], of[8]};
    }
    struct reading call = {
        .out = (void *)(intptr_t)value[0],
        .aux = (const float *)(intptr_t)value[1],
        .heads = value[2],
        .kv_heads = value[3],
        .dim = value[4],
        .tokens = value[5],
        .scale = scale,
        .half = (int)value[7],
        .threads = (int)value[8],
        .parts = parts,
        .count = found,
        .level = level,
    };
    if (call.kv_heads < 1 || call.heads % call.kv_heads || call.dim % HEAD_MULTIPLE) {
        PyErr_Format(PyExc_ValueError, "reading: heads of %lld numbers, expected a multiple of 16", value[4]);
        return NULL;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = reading(&call);
    Py_END_ALLOW_THREADS;
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

#define DICTS_AHEAD 16

/* Whether `each` is true of all dicts of a list; -1 with an error set. */
static int each_dict(PyObject *dicts, int (*each)(PyObject *, Py_ssize_t, void *), void *data) {
    Py_ssize_t size = PyList_GET_SIZE(dicts);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *dict = PyList_GET_ITEM(dicts, i);
        /* Weights have driven them out of the caches since the last token. */
        __builtin_prefetch(PyList_GET_ITEM(dicts, i + DICTS_AHEAD < size ? i + DICTS_AHEAD : i));
        if (!PyDict_Check(dict)) {
            PyErr_Format(PyExc_TypeError, "unchanged: item %zd is no dict", i);
            return -1;
        }
        int is = each(dict, i, data);
        if (is != 1)
            return is;
    }
    return 1;
}

struct places {
    PyObject *names, *found;
};

static int holds(PyObject *dict, Py_ssize_t i, void *data) {
    struct places *places = data;
    PyObject *now = PyDict_GetItemWithError(dict, PyList_GET_ITEM(places->names, i));
    return now ? now == PyList_GET_ITEM(places->found, i) : PyErr_Occurred() ? -1 : 0;
}

static int is_empty(PyObject *dict, Py_ssize_t i, void *data) {
    return PyDict_GET_SIZE(dict) == 0;
}

static int lacks(PyObject *dict, Py_ssize_t i, void *name) {
    int has = PyDict_Contains(dict, name);
    return has < 0 ? -1 : !has;
}

/* unchanged(stores, names, found, empty, without, name) */
static PyObject *call_unchanged(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    if (count != 6) {
        PyErr_Format(PyExc_TypeError, "unchanged: %zd arguments, expected 6", count);
        return NULL;
    }
    for (int i = 0; i < 5; i++)
        if (!PyList_Check(given[i])) {
            PyErr_Format(PyExc_TypeError, "unchanged: argument %d is no list", i + 1);
            return NULL;
        }
    Py_ssize_t size = PyList_GET_SIZE(given[0]);
    if (PyList_GET_SIZE(given[1]) != size || PyList_GET_SIZE(given[2]) != size) {
        PyErr_Format(PyExc_ValueError, "unchanged: expected %zd names, and as many objects", size);
        return NULL;
    }
    struct places places = {given[1], given[2]};
    int is = each_dict(given[0], holds, &places);
    if (is == 1)
        is = each_dict(given[3], is_empty, NULL);
    if (is == 1)
        is = each_dict(given[4], lacks, given[5]);
    return is < 0 ? NULL : PyBool_FromLong(is);
}

static int known_kind(const char *name, long long kind) {
    if (gguf_known((int)kind))
        return 1;
    PyErr_Format(PyExc_ValueError, "%s: no known kind of blocks, %lld", name, kind);
    return 0;
}

/* gguf_weights(out, blocks, count, kind, half) */
static PyObject *call_gguf_weights(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[5];
    if (!numbers("gguf_weights", given, count, 5, value) || !known_kind("gguf_weights", value[3]))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    gguf_weights((const uint8_t *)(intptr_t)value[1], value[2], (int)value[3], (int)value[4], (void *)(intptr_t)value[0]);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* gguf_codes(codes, scales, minima, blocks, count, kind) */
static PyObject *call_gguf_codes(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[6];
    if (!numbers("gguf_codes", given, count, 6, value) || !known_kind("gguf_codes", value[5]))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    gguf_codes((const uint8_t *)(intptr_t)value[3], value[4], (int)value[5], (int8_t *)(intptr_t)value[0],
               (float *)(intptr_t)value[1], (float *)(intptr_t)value[2]);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* pack_blocks(out, rows, outputs, inputs, kind, format) */
static PyObject *call_pack_blocks(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[6];
    if (!numbers("pack_blocks", given, count, 6, value) || !known_kind("pack_blocks", value[4]))
        return NULL;
    struct packing call = {
        .out = (uint8_t *)(intptr_t)value[0],
        .rows = (const uint8_t *)(intptr_t)value[1],
        .outputs = value[2],
        .inputs = value[3],
        .kind = (int)value[4],
        .format = (enum format)value[5],
    };
    int64_t moved;
    Py_BEGIN_ALLOW_THREADS;
    moved = pack_blocks(&call);
    Py_END_ALLOW_THREADS;
    return PyLong_FromLongLong(moved);
}

/* pack_eight_bits(out, weights, outputs, inputs) */
static PyObject *call_pack_eight_bits(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[4];
    if (!numbers("pack_eight_bits", given, count, 4, value))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    pack_eight_bits((const float *)(intptr_t)value[1], value[2], value[3], (uint8_t *)(intptr_t)value[0]);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* masses(out, q, codes, scale, low, lengths, blocks, tokens, queries, dim, codes stride, scale stride, threads) */
static PyObject *call_masses(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[13];
    if (!numbers("masses", given, count, 13, value))
        return NULL;
    struct masses call = {
        .out = (float *)(intptr_t)value[0],
        .q = (const float *)(intptr_t)value[1],
        .codes = (const uint8_t *)(intptr_t)value[2],
        .scale = (const uint8_t *)(intptr_t)value[3],
        .low = (const uint8_t *)(intptr_t)value[4],
        .lengths = (const int64_t *)(intptr_t)value[5],
        .blocks = value[6],
        .tokens = value[7],
        .queries = value[8],
        .dim = value[9],
        .codes_stride = value[10],
        .scale_stride = value[11],
        .threads = (int)value[12],
        .level = level,
    };
    if (call.dim % KEY_MULTIPLE) {
        PyErr_Format(PyExc_ValueError, "masses: keys of %lld numbers, expected a multiple of 4", value[9]);
        return NULL;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = masses(&call);
    Py_END_ALLOW_THREADS;
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* turn(out, x, cos, sin, heads, tokens, dim, start, pairs, turns, head stride, token stride, interleaved, half) */
static PyObject *call_turn(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    long long value[14];
    if (!numbers("turn", given, count, 14, value))
        return NULL;
    struct turn call = {
        .out = (void *)(intptr_t)value[0],
        .x = (const void *)(intptr_t)value[1],
        .cos = (const float *)(intptr_t)value[2],
        .sin = (const float *)(intptr_t)value[3],
        .heads = value[4],
        .tokens = value[5],
        .dim = value[6],
        .start = value[7],
        .pairs = value[8],
        .turns = value[9],
        .x_head = value[10],
        .x_token = value[11],
        .interleaved = (int)value[12],
        .half = (int)value[13],
    };
    if (call.start + 2 * call.pairs > call.dim || (call.turns != 1 && call.turns != call.tokens)) {
        PyErr_Format(PyExc_ValueError, "turn: %lld pairs from %lld on of %lld numbers, %lld turns of %lld tokens", value[8],
                     value[7], value[6], value[9], value[5]);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    turn(&call);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *get_level(PyObject *self, PyObject *nothing) {
    return PyUnicode_FromString(LEVELS[level]);
}

static PyObject *get_levels(PyObject *self, PyObject *nothing) {
    PyObject *found = PyList_New(0);
    for (int i = 0; found && i <= (int)cpu_level(); i++) {
        PyObject *name = PyUnicode_FromString(LEVELS[i]);
        if (!name || PyList_Append(found, name) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

static PyObject *set_level(PyObject *self, PyObject *given) {
    const char *name = PyUnicode_AsUTF8(given);
    if (!name)
        return NULL;
    for (int i = 0; i <= (int)cpu_level(); i++)
        if (strcmp(name, LEVELS[i]) == 0) {
            level = (enum level)i;
            Py_RETURN_NONE;
        }
    PyErr_Format(PyExc_ValueError, "%s: not a set of instructions that this processor has", name);
    return NULL;
}

static PyMethodDef methods[] = {
    {"linear", (PyCFunction)(void (*)(void))call_linear, METH_FASTCALL,
     "linear(out, x, weight, bias, rows, outputs, inputs, format, half, threads): x W^T + bias, all by address."},
    {"unpack", (PyCFunction)(void (*)(void))call_unpack, METH_FASTCALL,
     "unpack(out, weight, panels, inputs, format, half, threads): packed weights as [inputs, 16 panels]."},
    {"token", call_token, METH_O, "token(address): a decoder's forward for one token of each row (native/token.h)."},
    {"attention", (PyCFunction)(void (*)(void))call_attention, METH_FASTCALL,
     "attention(out, shares, aux, heads, kv_heads, dim, scale, half, threads, *ranges): one token (native/attention.h)."},
    {"reading", (PyCFunction)(void (*)(void))call_reading, METH_FASTCALL,
     "reading(out, aux, heads, kv_heads, dim, tokens, scale, half, threads, *parts): many tokens (native/reading.h)."},
    {"unchanged", (PyCFunction)(void (*)(void))call_unchanged, METH_FASTCALL,
     "unchanged(stores, names, found, empty, without, name): whether each dict of `stores` has the very object of `found`\n"
     "under its name, those of `empty` are empty, and those of `without` lack `name`."},
    {"gguf_weights", (PyCFunction)(void (*)(void))call_gguf_weights, METH_FASTCALL,
     "gguf_weights(out, blocks, count, kind, half): blocks of a GGUF file as weights (native/gguf.h)."},
    {"gguf_codes", (PyCFunction)(void (*)(void))call_gguf_codes, METH_FASTCALL,
     "gguf_codes(codes, scales, minima, blocks, count, kind): as codes with scales (native/gguf.h)."},
    {"pack_blocks", (PyCFunction)(void (*)(void))call_pack_blocks, METH_FASTCALL,
     "pack_blocks(out, rows, outputs, inputs, kind, format): blocks of a GGUF file as packed weights (native/packing.h)."},
    {"pack_eight_bits", (PyCFunction)(void (*)(void))call_pack_eight_bits, METH_FASTCALL,
     "pack_eight_bits(out, weights, outputs, inputs): float32 weights rounded to 8 bits (native/packing.h)."},
    {"masses", (PyCFunction)(void (*)(void))call_masses, METH_FASTCALL,
     "masses(out, q, codes, scale, low, lengths, ...): what blocks of keys get of attention (native/masses.h)."},
    {"turn", (PyCFunction)(void (*)(void))call_turn, METH_FASTCALL,
     "turn(out, x, cos, sin, heads, tokens, dim, start, pairs, turns, ...): RoPE by angles (native/turn.h)."},
    {"level", get_level, METH_NOARGS, "The set of instructions in use."},
    {"levels", get_levels, METH_NOARGS, "Those that this processor has, the best one last."},
    {"set_level", set_level, METH_O, "Use another one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", "Kernels in C for the processor.", -1, methods};

PyMODINIT_FUNC PyInit__native(void) {
    level = cpu_level();
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "INTERFACE", INTERFACE) < 0)
        Py_CLEAR(made);
    return made;
}
