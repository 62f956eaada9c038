"""A study database on a server that may go away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from autocompress.errors import StorageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.study._frozen import FrozenStudy

PATIENCE_SECONDS = 120.0
"""A server that restarts is back in seconds, one that is moved in a minute or two."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_CONNECTION_STATES = ("08", "57P", "53300")
"""SQLSTATEs of lost connections, of servers that stop or start, and of too many connections."""

_T = TypeVar("_T")


class ReconnectingStorage(BaseStorage):
    """Repeats what failed because the connection was lost, and gives up after a while.

    The last thing that a server did may have been done although its answer was lost, so what cannot simply be repeated
    (a new trial, a change of state) looks first whether it was.  That needs what `driver_lock` gives: one driver a
    study.

    Args:
        backend: the database.
        where: the database as it may be shown.
        renew: takes the study's lock anew; called after each loss, before anything is repeated.
        say: is told when the connection is lost and when it is back.
        patience: seconds after which it gives up.
    """

    def __init__(
        self,
        backend: optuna.storages.RDBStorage,
        *,
        where: str,
        renew: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        # Optuna's cache in front of the database: without it each trial would read all the others again.
        self._backend = optuna.storages.get_storage(backend)
        self._where = where
        self._renew = renew
        self._say = say
        self._patience = patience
        self._gave_up: StorageError | None = None
        self._newest: dict[int, int] = {}

    def _patiently(self, first: Callable[[], _T], again: Callable[[], _T] | None = None) -> _T:
        """Do something, and where the connection is lost do ``again`` until it works."""
        if self._gave_up is not None:
            raise self._gave_up
        try:
            return first()
        except Exception as error:
            if not _connection_lost(error):
                raise
            lost = error
        begun = time.monotonic()
        pause = _FIRST_PAUSE
        self._say(f"database {self._where}: connection lost ({_reason(lost)}); trying for {self._patience:.0f} s")
        while time.monotonic() - begun < self._patience:
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)
            try:
                self._renew()
                value = (again or first)()
            except Exception as error:
                if not _connection_lost(error):
                    raise
                lost = error
            else:
                self._say(f"database {self._where}: back after {time.monotonic() - begun:.0f} s")
                return value
        self._gave_up = StorageError(
            f"database {self._where}: connection lost and not back within {self._patience:.0f} s ({_reason(lost)}); "
            "what was finished is kept: see to the server and repeat the command"
        )
        raise self._gave_up from lost

    # -- studies --------------------------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See `optuna.storages.BaseStorage`, as for all methods below."""
        return self._patiently(lambda: self._backend.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        self._patiently(lambda: self._backend.delete_study(study_id))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._patiently(lambda: self._backend.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._patiently(lambda: self._backend.set_study_system_attr(study_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._patiently(lambda: self._backend.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._patiently(lambda: self._backend.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._patiently(lambda: self._backend.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(lambda: self._backend.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(lambda: self._backend.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._patiently(self._backend.get_all_studies)

    # -- trials ---------------------------------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if study_id not in self._newest:
            self._newest[study_id] = self._newest_trial(study_id)
        wanted = TrialState.RUNNING if template_trial is None else template_trial.state
        known = self._newest[study_id]

        def create() -> int:
            return self._backend.create_new_trial(study_id, template_trial)

        def create_unless_done() -> int:
            trials = self._backend.get_all_trials(study_id, deepcopy=False, states=(wanted,))
            made = [trial._trial_id for trial in trials if trial._trial_id > known]
            return max(made) if made else create()

        trial_id = self._patiently(create, create_unless_done)
        self._newest[study_id] = trial_id
        return trial_id

    def _newest_trial(self, study_id: int) -> int:
        trials = self.get_all_trials(study_id, deepcopy=False)
        return max((trial._trial_id for trial in trials), default=-1)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._patiently(lambda: self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def change() -> bool:
            return self._backend.set_trial_state_values(trial_id, state, values)

        def change_unless_done() -> bool:
            return self._backend.get_trial(trial_id).state == state or change()

        return self._patiently(change, change_unless_done)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._patiently(lambda: self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._patiently(lambda: self._backend.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._patiently(lambda: self._backend.set_trial_system_attr(trial_id, key, value))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._patiently(lambda: self._backend.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._patiently(lambda: self._backend.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._patiently(lambda: self._backend.get_all_trials(study_id, deepcopy, states))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._patiently(lambda: self._backend.get_best_trial(study_id))

    def remove_session(self) -> None:
        self._backend.remove_session()


def _connection_lost(error: BaseException) -> bool:
    cause = _database_error(error)
    if not isinstance(cause, (OperationalError, InterfaceError)):
        return False
    if cause.connection_invalidated:
        return True
    state = getattr(cause.orig, "sqlstate", None)
    # A connection that could not be made has no state, or one that tells why.
    return state is None or str(state).startswith(_CONNECTION_STATES)


def _database_error(error: BaseException) -> BaseException | None:
    """The library's own error, which Optuna wraps."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        return error.__cause__
    return error if isinstance(error, DBAPIError) else None


def _reason(error: BaseException) -> str:
    cause = getattr(_database_error(error), "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
