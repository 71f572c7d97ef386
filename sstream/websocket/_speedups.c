/* The inner loops of the websocket engine in C: cutting plain messages, unmasking, handing out, joining what is sent.
 *
 * frames.py and core.py say what each of them does, and do the same in Python; the same tests run on both. All that is
 * not plain is left to Python. Public C API only. The GIL is held throughout: nothing here waits, the socket is
 * non-blocking.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#define EVENTS_PER_PASS 128
#define READ_SIZE 65536
#define CORK 65536
#define STUCK 8

/* Made once, when the module is first imported; it serves the main interpreter only. */
static struct {
    PyObject *crash, *control, *flush_later, *handler, *hold, *lose, *on_eof, *on_message, *receive, *receiver,
        *send_deflated, *start_handling, *stick, *transmit;
    PyObject *cancelled; /* asyncio.CancelledError */
    PyObject *monotonic; /* time.monotonic */
} names;

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

/* Append the plain messages that lie whole from `position` on; give the place of the first other thing, or -1. */
static Py_ssize_t
cut_into(const unsigned char *data, Py_ssize_t position, Py_ssize_t end, Py_ssize_t most, Py_ssize_t limit, PyObject *events)
{
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
            return -1;
        }
        int failed = PyList_Append(events, message);
        Py_DECREF(message);
        if (failed) {
            return -1;
        }
        position += header + size;
    }
    return position;
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
    Py_ssize_t end = PyBytes_GET_SIZE(args[0]);
    if (position < 0 || position > end) {
        PyErr_SetString(PyExc_ValueError, "position outside of data");
        return NULL;
    }
    position = cut_into((const unsigned char *)PyBytes_AS_STRING(args[0]), position, end, most, limit, args[4]);
    return position < 0 ? NULL : PyLong_FromSsize_t(position);
}

/* The base of a connection; core.py tells what the members mean. */
typedef struct {
    PyObject_HEAD
    unsigned char *data; /* what was written, framed */
    Py_ssize_t used, room;
    Py_ssize_t limit;
    double rate, burst, tokens, charged;
    int fd, blocked;
    char closed, deflates, heard, idle, more, scheduled;
} Core;

/* Call a method of the connection that is in Python; give 0, or -1 with an exception. */
static int
call(Core *self, PyObject *name, PyObject *argument)
{
    PyObject *done = argument != NULL ? PyObject_CallMethodOneArg((PyObject *)self, name, argument)
                                      : PyObject_CallMethodNoArgs((PyObject *)self, name);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

static PyObject *
none_or_null(int failed)
{
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Writing */

static int
reserve(Core *self, Py_ssize_t more)
{
    if (more <= self->room - self->used) {
        return 0;
    }
    if (more > PY_SSIZE_T_MAX / 4 - self->used) {
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

/* Nothing is kept: nearly all connections are idle at any time. */
static void
forget(Core *self)
{
    PyMem_Free(self->data);
    self->data = NULL;
    self->used = self->room = 0;
}

static PyObject *
take(Core *self)
{
    PyObject *all = PyBytes_FromStringAndSize((const char *)self->data, self->used);
    if (all != NULL) {
        forget(self);
    }
    return all;
}

static int
call_with(Core *self, PyObject *name, PyObject *argument)
{
    if (argument == NULL) {
        return -1;
    }
    int failed = call(self, name, argument);
    Py_DECREF(argument);
    return failed;
}

static int
flush_out(Core *self)
{
    if (!self->used) {
        return 0;
    }
    if (self->fd < 0 || self->blocked & STUCK) {
        return call_with(self, names.transmit, take(self));
    }
    ssize_t sent = send(self->fd, self->data, (size_t)self->used, 0);
    if (sent == self->used) {
        forget(self);
        return 0;
    }
    if (sent < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            forget(self);
            return call(self, names.lose, NULL);
        }
        sent = 0;
    }
    PyObject *rest = PyBytes_FromStringAndSize((const char *)self->data + sent, self->used - sent);
    if (rest != NULL) {
        forget(self);
    }
    return call_with(self, names.stick, rest);
}

static int
see_to_it(Core *self)
{
    if (!self->scheduled) {
        self->scheduled = 1;
        if (call(self, names.flush_later, NULL)) {
            return -1;
        }
    }
    return self->used > CORK ? flush_out(self) : 0;
}

PyDoc_STRVAR(send_doc, "send(payload, /)\n--\n\n"
                       "Send ``bytes`` as a binary, ``str`` as a text message; nothing happens if the connection is closing.");

static PyObject *
core_send(Core *self, PyObject *payload)
{
    if (self->closed) {
        Py_RETURN_NONE;
    }
    if (self->deflates) {
        return none_or_null(call(self, names.send_deflated, payload));
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
    return none_or_null(see_to_it(self));
}

PyDoc_STRVAR(put_doc, "_put(frame, /)\n--\n\nWrite a frame.");

static PyObject *
core_put(Core *self, PyObject *frame)
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
    return none_or_null(see_to_it(self));
}

PyDoc_STRVAR(send_frame_doc, "send_frame(frame, /)\n--\n\n"
                             "Send what `frames.frame` gave; nothing happens if the connection is closing.");

static PyObject *
core_send_frame(Core *self, PyObject *frame)
{
    if (self->closed) {
        Py_RETURN_NONE;
    }
    return core_put(self, frame);
}

PyDoc_STRVAR(flush_doc, "flush()\n--\n\nSend what was written.");

static PyObject *
core_flush(Core *self, PyObject *ignored)
{
    self->scheduled = 0;
    return none_or_null(flush_out(self));
}

PyDoc_STRVAR(take_doc, "_take()\n--\n\nGive all that was written, and forget it.");

static PyObject *
core_take(Core *self, PyObject *ignored)
{
    return take(self);
}

/* Reading */

/* The handler raised. What is not its own business, as KeyboardInterrupt, passes. */
static int
crash(Core *self)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception) && !PyErr_ExceptionMatches(names.cancelled)) {
        return -1;
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *error = PyErr_GetRaisedException();
#else
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
#endif
    return call_with(self, names.crash, error);
}

/* Hand out events[i]. */
static int
hand_out(Core *self, PyObject *receiver, PyObject *event)
{
    if (!PyBytes_CheckExact(event) && !PyUnicode_CheckExact(event)) {
        return call(self, names.control, event);
    }
    PyObject *handling = PyObject_CallOneArg(receiver, event);
    if (handling == NULL) {
        return crash(self);
    }
    int failed = handling == Py_None ? 0 : call(self, names.start_handling, handling);
    Py_DECREF(handling);
    return failed;
}

static int
dispatch(Core *self, PyObject *events)
{
    self->scheduled = 1; /* all replies leave together */
    PyObject *receiver = PyObject_GetAttr((PyObject *)self, names.receiver);
    if (receiver == Py_None) {
        PyObject *handler = PyObject_GetAttr((PyObject *)self, names.handler);
        Py_SETREF(receiver, handler != NULL ? PyObject_GetAttr(handler, names.on_message) : NULL);
        Py_XDECREF(handler);
    }
    if (receiver == NULL) {
        return -1;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(events) && !failed; i++) {
        PyObject *event = PyList_GET_ITEM(events, i);
        Py_INCREF(event);
        failed = hand_out(self, receiver, event);
        Py_DECREF(event);
        if (!failed && self->blocked) {
            failed = call_with(self, names.hold, PyList_GetSlice(events, i + 1, PY_SSIZE_T_MAX));
            break;
        }
    }
    Py_DECREF(receiver);
    self->scheduled = 0;
    return failed ? -1 : flush_out(self);
}

PyDoc_STRVAR(dispatch_doc, "_dispatch(events, /)\n--\n\nHand out events, until one of them blocks; then send what was written.");

static PyObject *
core_dispatch(Core *self, PyObject *events)
{
    if (!PyList_Check(events)) {
        PyErr_SetString(PyExc_TypeError, "events are a list");
        return NULL;
    }
    return none_or_null(dispatch(self, events));
}

/* Take a token for each message; give 0 where there are not enough, for Python to tell the peer, or -1. */
static int
charge(Core *self, Py_ssize_t count)
{
    if (self->rate == 0) {
        return 1;
    }
    PyObject *time = PyObject_CallNoArgs(names.monotonic);
    if (time == NULL) {
        return -1;
    }
    double now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    double tokens = self->tokens + (now - self->charged) * self->rate;
    tokens = (tokens < self->burst ? tokens : self->burst) - (double)count;
    if (tokens < 0) {
        return 0;
    }
    self->tokens = tokens;
    self->charged = now;
    return 1;
}

PyDoc_STRVAR(on_readable_doc, "_on_readable()\n--\n\nRun one pass: read what is there, hand it out, send the replies.");

static PyObject *
core_on_readable(Core *self, PyObject *ignored)
{
    if (self->more || self->fd < 0) {
        Py_RETURN_NONE;
    }
    unsigned char data[READ_SIZE];
    ssize_t size = recv(self->fd, data, sizeof data, 0);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        Py_RETURN_NONE;
    }
    if (size <= 0) {
        return none_or_null(call(self, names.on_eof, NULL));
    }
    self->heard = 1;
    if (self->idle && !self->blocked) {
        PyObject *events = PyList_New(0);
        if (events == NULL) {
            return NULL;
        }
        Py_ssize_t end = cut_into(data, 0, size, EVENTS_PER_PASS, self->limit, events);
        int plain = end < 0 ? -1 : end == size ? charge(self, PyList_GET_SIZE(events)) : 0;
        int failed = plain > 0 ? dispatch(self, events) : plain;
        Py_DECREF(events);
        if (plain) {
            return none_or_null(failed);
        }
    }
    return none_or_null(call_with(self, names.receive, PyBytes_FromStringAndSize((const char *)data, size)));
}

/* The type */

static void
core_dealloc(Core *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->data);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *
core_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    Core *self = (Core *)allocate(type, 0);
    if (self != NULL) {
        self->fd = -1;
        self->heard = 1;
    }
    return (PyObject *)self;
}

static PyMethodDef core_methods[] = {
    {"send", (PyCFunction)core_send, METH_O, send_doc},
    {"send_frame", (PyCFunction)core_send_frame, METH_O, send_frame_doc},
    {"flush", (PyCFunction)core_flush, METH_NOARGS, flush_doc},
    {"_put", (PyCFunction)core_put, METH_O, put_doc},
    {"_take", (PyCFunction)core_take, METH_NOARGS, take_doc},
    {"_dispatch", (PyCFunction)core_dispatch, METH_O, dispatch_doc},
    {"_on_readable", (PyCFunction)core_on_readable, METH_NOARGS, on_readable_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef core_members[] = {
    {"heard", T_BOOL, offsetof(Core, heard), 0, NULL},
    {"server_terminated", T_BOOL, offsetof(Core, closed), 0, NULL},
    {"_blocked", T_INT, offsetof(Core, blocked), 0, NULL},
    {"_burst", T_DOUBLE, offsetof(Core, burst), 0, NULL},
    {"_charged", T_DOUBLE, offsetof(Core, charged), 0, NULL},
    {"_deflates", T_BOOL, offsetof(Core, deflates), 0, NULL},
    {"_fd", T_INT, offsetof(Core, fd), 0, NULL},
    {"_idle", T_BOOL, offsetof(Core, idle), 0, NULL},
    {"_limit", T_PYSSIZET, offsetof(Core, limit), 0, NULL},
    {"_more", T_BOOL, offsetof(Core, more), 0, NULL},
    {"_rate", T_DOUBLE, offsetof(Core, rate), 0, NULL},
    {"_scheduled", T_BOOL, offsetof(Core, scheduled), 0, NULL},
    {"_tokens", T_DOUBLE, offsetof(Core, tokens), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "See sstream.websocket.core.Core."},
    {Py_tp_new, core_new},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_methods, core_methods},
    {Py_tp_members, core_members},
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "sstream.websocket._speedups.Core",
    .basicsize = sizeof(Core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = core_slots,
};

/* The module */

static PyObject *
imported(const char *module, const char *name)
{
    PyObject *from = PyImport_ImportModule(module);
    PyObject *found = from != NULL ? PyObject_GetAttrString(from, name) : NULL;
    Py_XDECREF(from);
    return found;
}

static int
make_names(void)
{
    if (names.monotonic != NULL) {
        return 0;
    }
    const struct {
        PyObject **name;
        const char *text;
    } wanted[] = {
        {&names.crash, "_crash"},
        {&names.control, "_control"},
        {&names.flush_later, "_flush_later"},
        {&names.handler, "handler"},
        {&names.hold, "_hold"},
        {&names.lose, "_lose"},
        {&names.on_eof, "_on_eof"},
        {&names.on_message, "on_message"},
        {&names.receive, "_receive"},
        {&names.receiver, "receiver"},
        {&names.send_deflated, "_send_deflated"},
        {&names.start_handling, "_start_handling"},
        {&names.stick, "_stick"},
        {&names.transmit, "_transmit"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        Py_XSETREF(*wanted[i].name, PyUnicode_InternFromString(wanted[i].text));
        if (*wanted[i].name == NULL) {
            return -1;
        }
    }
    Py_XSETREF(names.cancelled, imported("asyncio", "CancelledError"));
    if (names.cancelled == NULL) {
        return -1;
    }
    names.monotonic = imported("time", "monotonic");
    return names.monotonic != NULL ? 0 : -1;
}

static int
speedups_exec(PyObject *module)
{
    if (make_names()) {
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &core_spec, NULL);
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
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
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
