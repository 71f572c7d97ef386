/* The first step of a coroutine, in C: runner.py says what becomes of it, and does the same in Python.
 *
 * Public C API only. The GIL is held throughout.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* `_take`, interned. */
static PyObject *take;

/* Make the loop believe that `task` is running, NULL: that none is. An exception that is set stays so. */
static int
replace(PyObject *running, PyObject *loop, PyObject *task)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    int failed = task != NULL ? PyDict_SetItem(running, loop, task) : PyDict_DelItem(running, loop);
    if (!failed) {
        PyErr_Restore(type, error, traceback);
        return 0;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return -1;
}

PyDoc_STRVAR(begin_doc,
             "begin(coroutine, running, loop, task, runner, /)\n--\n\n"
             "Run a coroutine, as the loop's task and in a context of its own, until it ends or waits; give its result,\n"
             "or ``runner``, which has taken it.");

static PyObject *
begin(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "begin takes a coroutine, a dict, a loop, a task and a runner");
        return NULL;
    }
    PyObject *coroutine = args[0], *running = args[1], *loop = args[2], *task = args[3], *runner = args[4];
    PyObject *outer = PyDict_GetItemWithError(running, loop);
    if (outer == NULL && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL) {
        return NULL;
    }
    Py_XINCREF(outer);
    PyObject *outcome = NULL;
    PySendResult how = PYGEN_ERROR;
    if (!replace(running, loop, task)) {
        if (!PyContext_Enter(context)) {
            how = PyIter_Send(coroutine, Py_None, &outcome);
            if (PyContext_Exit(context)) {
                how = PYGEN_ERROR;
            }
        }
        if (replace(running, loop, outer)) {
            how = PYGEN_ERROR;
        }
    }
    Py_XDECREF(outer);
    if (how == PYGEN_NEXT) {
        PyObject *taken = PyObject_CallMethodObjArgs(runner, take, context, outcome, coroutine, NULL);
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
speedups_exec(PyObject *module)
{
    if (take == NULL) {
        take = PyUnicode_InternFromString("_take");
    }
    return take != NULL ? 0 : -1;
}

static PyMethodDef speedups_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))begin, METH_FASTCALL, begin_doc},
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
    .m_name = "sstream.rpc._speedups",
    .m_doc = "The first step of a coroutine in C.",
    .m_size = 0,
    .m_methods = speedups_methods,
    .m_slots = speedups_slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&speedups_module);
}
