/* The first step of a coroutine, in C: runner.py says what becomes of it, and does the same in Python.
 *
 * Public C API only. The GIL is held throughout.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

static PyObject *cancel_name, *cancelling_name, *make_name, *take_name, *task_name;

typedef struct {
    PyObject_HEAD
    PyObject *loop;
    PyObject *running; /* the dict of the tasks that loops believe to be running */
    PyObject *spare;   /* the runner that stands ready, or NULL or None */
    Py_ssize_t users;
} Starter;

/* Make the loop believe that `task` is running, NULL: that none is. */
static int
replace(PyObject *running, PyObject *loop, PyObject *task)
{
    return task != NULL ? PyDict_SetItem(running, loop, task) : PyDict_DelItem(running, loop);
}

/* The same where an exception may be set, which then stays so. */
static int
restore(PyObject *running, PyObject *loop, PyObject *task)
{
    if (!PyErr_Occurred()) {
        return replace(running, loop, task);
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    int failed = replace(running, loop, task);
    if (!failed) {
        PyErr_Restore(type, error, traceback);
        return 0;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return -1;
}

/* Run a coroutine, as the loop's task and in a context of its own, until it ends or waits; give its result, or
 * `runner`, which has taken it. */
static PyObject *
begin(PyObject *coroutine, PyObject *running, PyObject *loop, PyObject *task, PyObject *runner)
{
    PyObject *outer = NULL;
    if (PyDict_Size(running)) {
        outer = Py_XNewRef(PyDict_GetItemWithError(running, loop));
        if (outer == NULL && PyErr_Occurred()) {
            return NULL;
        }
    }
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL) {
        Py_XDECREF(outer);
        return NULL;
    }
    PyObject *outcome = NULL;
    PySendResult how = PYGEN_ERROR;
    if (!replace(running, loop, task)) {
        if (!PyContext_Enter(context)) {
            how = PyIter_Send(coroutine, Py_None, &outcome);
            if (PyContext_Exit(context)) {
                how = PYGEN_ERROR;
            }
        }
        if (restore(running, loop, outer)) {
            how = PYGEN_ERROR;
        }
    }
    Py_XDECREF(outer);
    if (how == PYGEN_NEXT) {
        PyObject *taken = PyObject_CallMethodObjArgs(runner, take_name, context, outcome, coroutine, NULL);
        Py_SETREF(outcome, taken != NULL ? Py_NewRef(runner) : NULL);
        Py_XDECREF(taken);
    }
    else if (how == PYGEN_ERROR) {
        Py_CLEAR(outcome);
    }
    Py_DECREF(context);
    return outcome;
}

static int
cancel(PyObject *task)
{
    PyObject *cancelled = PyObject_CallMethodNoArgs(task, cancel_name);
    Py_XDECREF(cancelled);
    return cancelled != NULL ? 0 : -1;
}

/* Keep the runner for the next coroutine, or end it, if it is not needed or somebody has cancelled it. */
static int
put_back(Starter *self, PyObject *runner, PyObject *task)
{
    if ((self->spare != NULL && self->spare != Py_None) || !self->users) {
        return cancel(task);
    }
    PyObject *cancelling = PyObject_CallMethodNoArgs(task, cancelling_name);
    int is_cancelled = cancelling != NULL ? PyObject_IsTrue(cancelling) : -1;
    Py_XDECREF(cancelling);
    if (is_cancelled) {
        return is_cancelled < 0 ? -1 : cancel(task);
    }
    Py_XSETREF(self->spare, Py_NewRef(runner));
    return 0;
}

PyDoc_STRVAR(run_doc, "run($self, coroutine, /)\n--\n\n"
                      "Run ``coroutine`` until it ends or waits; see ``runner.PythonStarter``.");

static PyObject *
Starter_run(Starter *self, PyObject *coroutine)
{
    if (self->loop == NULL || self->running == NULL || !PyDict_CheckExact(self->running)) {
        PyErr_SetString(PyExc_TypeError, "a starter needs a loop, and the dict of running tasks");
        return NULL;
    }
    PyObject *runner = self->spare;
    self->spare = NULL;
    if (runner == NULL || runner == Py_None) {
        Py_XDECREF(runner);
        runner = PyObject_CallMethodNoArgs((PyObject *)self, make_name);
        if (runner == NULL) {
            return NULL;
        }
    }
    PyObject *task = PyObject_GetAttr(runner, task_name);
    if (task == NULL) {
        Py_DECREF(runner);
        return NULL;
    }
    /* Ours as long as the coroutine runs, whatever it does to this object's attributes. */
    PyObject *running = Py_NewRef(self->running), *loop = Py_NewRef(self->loop);
    PyObject *outcome = begin(coroutine, running, loop, task, runner);
    Py_DECREF(running);
    Py_DECREF(loop);
    if (outcome == NULL) {
        PyObject *type, *error, *traceback;
        int is_end = PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
        PyErr_Fetch(&type, &error, &traceback);
        if (is_end ? cancel(task) : put_back(self, runner, task)) {
            Py_XDECREF(type);
            Py_XDECREF(error);
            Py_XDECREF(traceback);
        }
        else {
            PyErr_Restore(type, error, traceback);
        }
    }
    else if (outcome != runner && put_back(self, runner, task)) {
        Py_CLEAR(outcome);
    }
    Py_DECREF(task);
    Py_DECREF(runner);
    return outcome;
}

static int
Starter_traverse(Starter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->running);
    Py_VISIT(self->spare);
    return 0;
}

static int
Starter_clear(Starter *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->running);
    Py_CLEAR(self->spare);
    return 0;
}

static void
Starter_dealloc(Starter *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Starter_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef Starter_members[] = {
    {"loop", T_OBJECT, offsetof(Starter, loop), 0, NULL},
    {"_running", T_OBJECT, offsetof(Starter, running), 0, NULL},
    {"_spare", T_OBJECT, offsetof(Starter, spare), 0, NULL},
    {"_users", T_PYSSIZET, offsetof(Starter, users), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef Starter_methods[] = {
    {"run", (PyCFunction)Starter_run, METH_O, run_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Starter_slots[] = {
    {Py_tp_doc, "What runs the first steps of coroutines on one loop; the base of ``runner.Pool``."},
    {Py_tp_dealloc, Starter_dealloc},
    {Py_tp_traverse, Starter_traverse},
    {Py_tp_clear, Starter_clear},
    {Py_tp_members, Starter_members},
    {Py_tp_methods, Starter_methods},
    {0, NULL},
};

static PyType_Spec Starter_spec = {
    .name = "sstream.rpc._speedups.Starter",
    .basicsize = sizeof(Starter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Starter_slots,
};

static int
speedups_exec(PyObject *module)
{
    static struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&cancel_name, "cancel"}, {&cancelling_name, "cancelling"}, {&make_name, "_make"},
        {&take_name, "_take"},    {&task_name, "task"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (*names[i].name == NULL && (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &Starter_spec, NULL);
    int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot speedups_slots[] = {
    {Py_mod_exec, speedups_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef speedups_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sstream.rpc._speedups",
    .m_doc = "The first step of a coroutine in C.",
    .m_size = 0,
    .m_slots = speedups_slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&speedups_module);
}
