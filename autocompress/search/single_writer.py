"""A study database that one process writes: it need not read again what it wrote, and changes a file less often."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy.orm
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from autocompress.search.interrupts import interrupted_later

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.study._frozen import FrozenStudy


class SingleWriterStorage(BaseStorage):
    """Keeps a study's trials in memory, and reads one when it is made and when its state changes, and not again.

    Optuna's own cache reads all unfinished trials again whenever anybody asks for the trials, which a sampler does
    several times for each proposal: with 64 workers that took most of the driver's time. It is needed where several
    processes write into a study; `driver_lock` sees to it that one does.

    Args:
        database: where the trials are.
        sessions: of a database for which `together` saves time.
    """

    def __init__(self, database: BaseStorage, sessions: HeldSessions | None = None) -> None:
        self._database = database
        self._sessions = sessions
        self._forget()

    def _forget(self) -> None:
        """Begin with what the database holds."""
        cached = optuna.storages.get_storage(self._database)  # Optuna's cache in front of it, an empty one
        self._backend: Any = cached if self._sessions is None else _Whole(cached)
        self._numbers: dict[int, list[int]] = {}  # by study: identifiers of its trials, by number
        self._trials: dict[int, FrozenTrial] = {}
        self._changed: set[int] = set()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write all changes inside the block at its end, or none where it fails, if the database allows for that.

        Other writers wait from the first change on, so nothing that takes long belongs inside after it.
        """
        if self._sessions is None:
            yield
            return
        try:
            with interrupted_later(), self._sessions.held():
                yield
        except BaseException:
            self._forget()
            raise

    # -- studies --------------------------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See `optuna.storages.BaseStorage`, as for all methods below."""
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._backend.delete_study(study_id)
        self._numbers.pop(study_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._backend.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._backend.get_all_studies()

    # -- trials: changes ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self, trial_id: int) -> Iterator[FrozenTrial]:
        """What will be known of a trial, to be brought up to date; where that fails it is read again."""
        changed = copy.copy(self._newest(trial_id))  # somebody may hold the one before
        self._changed.add(trial_id)
        yield changed
        self._trials[trial_id] = changed
        self._changed.discard(trial_id)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        known = self._identifiers(study_id)
        try:
            trial_id = self._backend.create_new_trial(study_id, template_trial)
            self._changed.add(trial_id)
            known.append(trial_id)
        except BaseException:
            self._numbers.pop(study_id, None)  # an interruption may have come after the trial was made
            raise
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        with self._changing(trial_id) as trial:
            self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
            trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
            trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self._changed.add(trial_id)
        return self._backend.set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._changed.add(trial_id)
        self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._changing(trial_id) as trial:
            self._backend.set_trial_user_attr(trial_id, key, value)
            trial.user_attrs = {**trial.user_attrs, key: json.loads(json.dumps(value))}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._changing(trial_id) as trial:
            self._backend.set_trial_system_attr(trial_id, key, value)
            trial.system_attrs = {**trial.system_attrs, key: json.loads(json.dumps(value))}

    # -- trials: looks --------------------------------------------------------------------------------------------

    def _identifiers(self, study_id: int) -> list[int]:
        if study_id not in self._numbers:
            trials = self._backend.get_all_trials(study_id, deepcopy=False)
            self._trials |= {trial._trial_id: trial for trial in trials}
            self._numbers[study_id] = [trial._trial_id for trial in trials]
        return self._numbers[study_id]

    def _newest(self, trial_id: int) -> FrozenTrial:
        if trial_id in self._changed or trial_id not in self._trials:
            self._trials[trial_id] = self._backend.get_trial(trial_id)
            self._changed.discard(trial_id)
        return self._trials[trial_id]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._backend.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = self._newest(trial_id)
        # Optuna writes into what it gets of a trial that is not over.
        return trial if trial.state.is_finished() else copy.deepcopy(trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        identifiers = self._identifiers(study_id)
        for trial_id in list(self._changed):
            self._newest(trial_id)
        trials = (self._trials[trial_id] for trial_id in identifiers)
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._backend.get_best_trial(study_id)

    def remove_session(self) -> None:
        self._backend.remove_session()


def together(study: optuna.Study) -> contextlib.AbstractContextManager[None]:
    """See `SingleWriterStorage.together`; of a study on another storage each change is written at once."""
    storage = study._storage
    return storage.together() if isinstance(storage, SingleWriterStorage) else contextlib.nullcontext()


class _Whole:
    """A storage of which no call is interrupted.

    An interruption in the middle of a query would leave a cursor in the frames that its traceback holds, and with the
    cursor a lock on SQLite's file: nobody could write, not even what the interruption calls for.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with interrupted_later():
                return method(*args, **kwargs)

        return call


class HeldSessions:
    """Lets the sessions of a database keep one transaction open over several of Optuna's operations.

    Each operation of Optuna's is a transaction, of which a proposal and its end take 25, and on a file each waits for
    the disk. A server that may lose the connection in the middle must not be used so: what is repeated then is the
    last operation alone.

    Args:
        storage: whose sessions are replaced.
    """

    def __init__(self, storage: optuna.storages.RDBStorage) -> None:
        self._sessions = sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(storage.engine, class_=_Session))
        storage.scoped_session = self._sessions  # type: ignore[assignment]  # of a subclass of what it holds

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One transaction, undone where the block fails; a block inside another one belongs to it."""
        session = self._sessions()
        if session.held:
            yield
            return
        session.held = True
        try:
            yield
            session.held = False
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.held = False
            session.close()


class _Session(sqlalchemy.orm.Session):
    """Does not commit while it is held."""

    held = False

    def commit(self) -> None:
        if self.held:
            self.flush()
            self.expire_all()  # as a commit does: what is read next is what was written
        else:
            super().commit()

    def close(self) -> None:
        if not self.held:
            super().close()
