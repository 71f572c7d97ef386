/* Three inner loops of the websocket engine in C: cutting plain messages, unmasking, and joining what is sent.
 *
 * frames.py and outbox.py say what each of them does, and do the same in Python; the same tests run on both. Public C API
 * only, no global state, and the GIL is held throughout: nothing here waits.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <string.h>

/* RFC 6455, 5.3. Eight bytes at a time; the compiler makes more of it where the machine can. */
static void
unmask_into(unsigned char *to, const unsigned char *from, Py_ssize_t size, const unsigned char *mask)
{
    unsigned char twice[8];
    memcpy(twice, mask, 4);
    memcpy(twice + 4, mask, 4);
    uint64_t key;
    memcpy(&key, twice, 8);
    Py_ssize_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        memcpy(&word, from + at, 8);
        word ^= key;
        memcpy(to + at, &word, 8);
    }
    for (; at < size; at++) {
        to[at] = from[at] ^ mask[at & 3];
    }
}

PyDoc_STRVAR(unmask_doc, "unmask(mask, data, /)\n--\n\nSee sstream.websocket.frames.unmask.");

static PyObject *
unmask(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1]) || PyBytes_GET_SIZE(args[0]) != 4) {
        PyErr_SetString(PyExc_TypeError, "unmask takes a mask of 4 bytes and bytes");
        return NULL;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(args[1]);
    PyObject *plain = PyBytes_FromStringAndSize(NULL, size);
    if (plain != NULL) {
        unmask_into((unsigned char *)PyBytes_AS_STRING(plain), (const unsigned char *)PyBytes_AS_STRING(args[1]), size,
                    (const unsigned char *)PyBytes_AS_STRING(args[0]));
    }
    return plain;
}

/* A text message, or NULL without an exception where it is not UTF-8. */
static PyObject *
text_of(const unsigned char *from, Py_ssize_t size, const unsigned char *mask)
{
    unsigned char small[1024];
    unsigned char *plain = size <= (Py_ssize_t)sizeof small ? small : PyMem_Malloc((size_t)size);
    if (plain == NULL) {
        return PyErr_NoMemory();
    }
    unmask_into(plain, from, size, mask);
    PyObject *text = PyUnicode_DecodeUTF8((const char *)plain, size, "strict");
    if (plain != small) {
        PyMem_Free(plain);
    }
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
    }
    return text;
}

PyDoc_STRVAR(cut_doc, "cut(data, position, most, size, events, /)\n--\n\nSee sstream.websocket.frames.message_cutter.");

static PyObject *
cut(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyBytes_Check(args[0]) || !PyList_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "cut takes bytes, three numbers and a list");
        return NULL;
    }
    Py_ssize_t position = PyLong_AsSsize_t(args[1]);
    Py_ssize_t most = PyLong_AsSsize_t(args[2]);
    Py_ssize_t limit = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    Py_ssize_t end = PyBytes_GET_SIZE(args[0]);
    if (position < 0 || position > end) {
        PyErr_SetString(PyExc_ValueError, "position outside of data");
        return NULL;
    }
    for (; most > 0 && end - position >= 6; most--) {
        const unsigned char *frame = data + position;
        unsigned char first = frame[0];
        Py_ssize_t size = frame[1] & 0x7f, header = 6;
        if ((first != 0x82 && first != 0x81) || !(frame[1] & 0x80) || size == 127) {
            break;
        }
        if (size == 126) {
            header = 8;
            if (end - position < header) {
                break;
            }
            size = (Py_ssize_t)frame[2] << 8 | frame[3];
            if (size < 126) {
                break;
            }
        }
        if (size > end - position - header || size > limit) {
            break;
        }
        PyObject *message;
        if (first == 0x82) {
            message = PyBytes_FromStringAndSize(NULL, size);
            if (message != NULL) {
                unmask_into((unsigned char *)PyBytes_AS_STRING(message), frame + header, size, frame + header - 4);
            }
        }
        else {
            message = text_of(frame + header, size, frame + header - 4);
            if (message == NULL && !PyErr_Occurred()) {
                break;
            }
        }
        if (message == NULL) {
            return NULL;
        }
        int failed = PyList_Append(args[4], message);
        Py_DECREF(message);
        if (failed) {
            return NULL;
        }
        position += header + size;
    }
    return PyLong_FromSsize_t(position);
}

/* The end of a connection at which it writes. */
typedef struct {
    PyObject_HEAD
    unsigned char *data;
    Py_ssize_t used;
    Py_ssize_t room;
    char closed;
    char scheduled;
    char deflates;
} Outbox;

#define CORK 65536

static int
reserve(Outbox *self, Py_ssize_t more)
{
    if (more <= self->room - self->used) {
        return 0;
    }
    if (more > PY_SSIZE_T_MAX / 2 - self->used) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t room = self->used + more;
    room = room < 256 ? 256 : self->used ? room + room / 2 : room;
    unsigned char *data = PyMem_Realloc(self->data, (size_t)room);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->data = data;
    self->room = room;
    return 0;
}

/* After something was added: see to it that it leaves, now if it is much. */
static PyObject *
see_to_it(Outbox *self)
{
    if (!self->scheduled) {
        self->scheduled = 1;
        PyObject *done = PyObject_CallMethod((PyObject *)self, "_flush_later", NULL);
        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
    }
    if (self->used > CORK) {
        return PyObject_CallMethod((PyObject *)self, "_flush_early", NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc,
             "send(payload, /)\n--\n\n"
             "Send ``bytes`` as a binary, ``str`` as a text message; nothing happens if the connection is closing.");

static PyObject *
outbox_send(Outbox *self, PyObject *payload)
{
    if (self->closed) {
        Py_RETURN_NONE;
    }
    if (self->deflates) {
        return PyObject_CallMethod((PyObject *)self, "_send_deflated", "O", payload);
    }
    unsigned char first = 0x82;
    const char *from;
    Py_ssize_t size;
    if (PyBytes_Check(payload)) {
        from = PyBytes_AS_STRING(payload);
        size = PyBytes_GET_SIZE(payload);
    }
    else if (PyUnicode_Check(payload)) {
        first = 0x81;
        from = PyUnicode_AsUTF8AndSize(payload, &size);
        if (from == NULL) {
            return NULL;
        }
    }
    else {
        return PyErr_Format(PyExc_TypeError, "a message is bytes or str, not %.100s", Py_TYPE(payload)->tp_name);
    }
    if (reserve(self, size + 10)) {
        return NULL;
    }
    unsigned char *to = self->data + self->used;
    *to++ = first;
    if (size < 126) {
        *to++ = (unsigned char)size;
    }
    else if (size < 65536) {
        *to++ = 126;
        *to++ = (unsigned char)(size >> 8);
        *to++ = (unsigned char)size;
    }
    else {
        *to++ = 127;
        for (int shift = 56; shift >= 0; shift -= 8) {
            *to++ = (unsigned char)((uint64_t)size >> shift);
        }
    }
    memcpy(to, from, (size_t)size);
    self->used = to + size - self->data;
    return see_to_it(self);
}

PyDoc_STRVAR(put_doc, "_put(frame, /)\n--\n\nAdd a frame.");

static PyObject *
outbox_put(Outbox *self, PyObject *frame)
{
    if (!PyBytes_Check(frame)) {
        return PyErr_Format(PyExc_TypeError, "a frame is bytes, not %.100s", Py_TYPE(frame)->tp_name);
    }
    Py_ssize_t size = PyBytes_GET_SIZE(frame);
    if (reserve(self, size)) {
        return NULL;
    }
    memcpy(self->data + self->used, PyBytes_AS_STRING(frame), (size_t)size);
    self->used += size;
    return see_to_it(self);
}

PyDoc_STRVAR(take_doc, "_take()\n--\n\nGive all that was added, and forget it.");

static PyObject *
outbox_take(Outbox *self, PyObject *ignored)
{
    PyObject *all = PyBytes_FromStringAndSize((const char *)self->data, self->used);
    if (all != NULL) {
        /* Nothing is kept: nearly all connections are idle at any time. */
        PyMem_Free(self->data);
        self->data = NULL;
        self->used = self->room = 0;
    }
    return all;
}

static void
outbox_dealloc(Outbox *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->data);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef outbox_methods[] = {
    {"send", (PyCFunction)outbox_send, METH_O, send_doc},
    {"_put", (PyCFunction)outbox_put, METH_O, put_doc},
    {"_take", (PyCFunction)outbox_take, METH_NOARGS, take_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef outbox_members[] = {
    {"server_terminated", T_BOOL, offsetof(Outbox, closed), 0, NULL},
    {"_scheduled", T_BOOL, offsetof(Outbox, scheduled), 0, NULL},
    {"_deflates", T_BOOL, offsetof(Outbox, deflates), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot outbox_slots[] = {
    {Py_tp_doc, "See sstream.websocket.outbox.Outbox."},
    {Py_tp_dealloc, outbox_dealloc},
    {Py_tp_methods, outbox_methods},
    {Py_tp_members, outbox_members},
    {0, NULL},
};

static PyType_Spec outbox_spec = {
    .name = "sstream.websocket._speedups.Outbox",
    .basicsize = sizeof(Outbox),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = outbox_slots,
};

static int
speedups_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &outbox_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyMethodDef speedups_methods[] = {
    {"unmask", (PyCFunction)(void (*)(void))unmask, METH_FASTCALL, unmask_doc},
    {"cut", (PyCFunction)(void (*)(void))cut, METH_FASTCALL, cut_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot speedups_slots[] = {
    {Py_mod_exec, speedups_exec},
    {0, NULL},
};

static struct PyModuleDef speedups_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sstream.websocket._speedups",
    .m_doc = "The inner loops of the websocket engine in C.",
    .m_size = 0,
    .m_methods = speedups_methods,
    .m_slots = speedups_slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&speedups_module);
}
