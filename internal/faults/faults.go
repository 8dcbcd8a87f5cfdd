// Package faults has the points of a program's work at which tests end it as kill -9 does, or hold it while they end another. There are any only
// in a build with -tags=faults: in what is shipped Before, After and AddFlags do nothing, and cost nothing.
//
// A test names a point in a file (Arm), the program that comes by does as it says, once, and shows that it was there (Reached).
package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Order is what is to happen at a point.
type Order struct {
	// Point by its name, which has two words: Before or After, and what for: the row of the table in docs/actions.md that is written, or what
	// else the program was told to call it.
	Point string `json:"point"`
	// Of is the action for which the program has to come by, as it knows it: by the name, an agent by the UID; empty: any.
	Of string `json:"of,omitempty"`
	// Hold is whether the program is held at the point until it is released; otherwise it ends.
	Hold bool `json:"hold,omitempty"`
	// All is whether whoever comes by is held, not the first alone, until the order is taken back.
	All bool `json:"all,omitempty"`
}

// Point names the moment before or after something.
func Point(when, what any) string { return fmt.Sprintf("%v %v", when, what) }

// Moments of a point.
const (
	WhenBefore = "before"
	WhenAfter  = "after"
)

// reachedSuffix of the file's name shows that somebody was there.
const reachedSuffix = ".reached"

// Arm puts an order into a file, instead of an earlier one, for the program that has it as its --fault-file.
func Arm(file string, o Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("arm the point %q: %w", o.Point, err)
	}
	if err := errors.Join(Release(file), os.WriteFile(file+".new", b, 0o600)); err != nil {
		return fmt.Errorf("arm the point %q: %w", o.Point, err)
	}
	return os.Rename(file+".new", file)
}

// Disarm takes back an order that nobody has carried out, or that was for all.
func Disarm(file string) error { return remove(file) }

// Reached tells whether a program came by the point of a file's order.
func Reached(file string) bool {
	_, err := os.Stat(file + reachedSuffix)
	return err == nil
}

// Release lets a program go on that is held.
func Release(file string) error { return remove(file + reachedSuffix) }

func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
