package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
)

const journalDir = "actions"

// ErrCorrupt is wrapped by the error of a record that does not parse.
var ErrCorrupt = errors.New("the record is damaged")

// HasJournal tells whether a journal of actions was made here. Its directory is the sign: without it, what was done is not known any more.
func (d *Dir) HasJournal() bool {
	info, err := os.Stat(d.file(journalDir))
	return err == nil && info.IsDir()
}

// MakeJournal makes an empty journal, durably.
func (d *Dir) MakeJournal() error {
	if err := private(d.file(journalDir)); err != nil {
		return fmt.Errorf("make the journal of actions: %w", err)
	}
	d.changed()
	return d.syncDir(d.path)
}

// Actions are the UIDs of the records, in no order.
func (d *Dir) Actions() ([]string, error) { return Actions(d.path) }

// Actions are the UIDs of the records in the state directory at path, in no order. Nobody need have it open.
func Actions(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(path, journalDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the journal of actions: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name := e.Name(); e.Type().IsRegular() && !strings.HasSuffix(name, tempSuffix) && !strings.HasSuffix(name, asideSuffix) {
			out = append(out, name)
		}
	}
	return out, nil
}

// Action reads a record, nil where there is none. One that is damaged is left where it is: the error wraps ErrCorrupt, and the record has
// what could still be read of it.
func (d *Dir) Action(uid string) (*statev1.JournalRecord, error) { return Action(d.path, uid) }

// Action is Dir.Action for a directory that another has open: it sees the old record or the new one, whole.
func Action(path, uid string) (*statev1.JournalRecord, error) {
	b, err := readFile(filepath.Join(path, journalDir, uid), maxFileBytes)
	switch {
	case errors.Is(err, errTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case b == nil || err != nil:
		return nil, err
	}
	r := &statev1.JournalRecord{}
	if err := decode(b, r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return r, nil
}

// SaveAction replaces a record, durably. A new one takes no room of the reserve, which is kept for what has been begun: on a full disk nothing
// more is.
func (d *Dir) SaveAction(uid string, r *statev1.JournalRecord, isNew bool) error {
	b, err := encode(r)
	if err != nil {
		return err
	}
	if isNew {
		return d.replace(journalDir+"/"+uid, b)
	}
	return d.write(journalDir+"/"+uid, b)
}

// SetActionAside keeps a damaged record for people to look at, under a second name: the first one goes on to say that the action is known.
func (d *Dir) SetActionAside(uid string, why error) {
	name := d.file(journalDir + "/" + uid)
	if err := os.Remove(name + asideSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		why = errors.Join(why, err)
	}
	if err := os.Link(name, name+asideSuffix); err != nil {
		why = errors.Join(why, err)
	}
	d.isDamaged(journalDir+"/"+uid, why)
}

// DropActions removes records.
func (d *Dir) DropActions(uids ...string) error {
	names := make([]string, len(uids))
	for i, uid := range uids {
		names[i] = journalDir + "/" + uid
	}
	return d.remove(names...)
}

// dropJournal removes the journal with all that is in it.
func (d *Dir) dropJournal() error {
	if err := os.RemoveAll(d.file(journalDir)); err != nil {
		return fmt.Errorf("remove the journal of actions: %w", err)
	}
	d.changed()
	return d.syncDir(d.path)
}
