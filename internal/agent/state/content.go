package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
)

const (
	contentDir    = "content"
	contentRecord = contentDir + "/in-use"
	partSuffix    = ".part"
)

// ErrNoContent is wrapped by the error of a bundle that is not there.
var ErrNoContent = errors.New("the file is missing")

// ContentRecord tells which content is in use, and which was before: nil where none ever was, or where the record is damaged.
func (d *Dir) ContentRecord() (*statev1.ContentRecord, error) {
	b, err := d.read(contentRecord)
	if err != nil || b == nil {
		return nil, err
	}
	r := &statev1.ContentRecord{}
	if err := decode(b, r); err != nil {
		d.setAside(contentRecord, err)
		return nil, nil
	}
	return r, nil
}

// SaveContentRecord puts content to use: it replaces the record, durably. On a full disk it does not touch the reserve.
func (d *Dir) SaveContentRecord(r *statev1.ContentRecord) error {
	b, err := encode(r)
	if err != nil {
		return err
	}
	return d.replace(contentRecord, b)
}

// Content reads the bundle with a digest, which is not verified. One of more than limit bytes is an error.
func (d *Dir) Content(digest string, limit int64) ([]byte, error) {
	b, err := readFile(d.file(contentDir+"/"+digest), limit)
	if b == nil && err == nil {
		err = ErrNoContent
	}
	return b, err
}

// SetContentAside keeps a damaged bundle for people to look at.
func (d *Dir) SetContentAside(digest string, why error) { d.setAside(contentDir+"/"+digest, why) }

// KeepPart makes a part that is whole, and was synced, the bundle of its digest.
func (d *Dir) KeepPart(digest string) error {
	name := d.file(contentDir + "/" + digest)
	if err := os.Rename(name+partSuffix, name); err != nil {
		return fmt.Errorf("keep the downloaded content: %w", err)
	}
	d.changed()
	return d.syncDir(filepath.Dir(name))
}

// SweepContent removes all bundles and parts but those of the digests to keep.
func (d *Dir) SweepContent(keep ...string) error {
	entries, err := os.ReadDir(d.file(contentDir))
	if err != nil {
		return fmt.Errorf("look for old content: %w", err)
	}
	kept := map[string]bool{filepath.Base(contentRecord): true}
	for _, digest := range keep {
		kept[digest] = true
	}
	var old []string
	for _, e := range entries {
		if digest, _, _ := strings.Cut(e.Name(), "."); !kept[digest] {
			old = append(old, contentDir+"/"+e.Name())
		}
	}
	return d.remove(old...)
}

// dropContent removes all content.
func (d *Dir) dropContent() error {
	if err := os.RemoveAll(d.file(contentDir)); err != nil {
		return fmt.Errorf("remove the content: %w", err)
	}
	d.changed()
	if err := private(d.file(contentDir)); err != nil {
		return fmt.Errorf("remove the content: %w", err)
	}
	return d.syncDir(d.path)
}

// Part is a download that is under way. It outlives the process. Its methods may be called beside those of Dir, from one goroutine.
type Part struct {
	file  *os.File
	light bool
}

// OpenPart opens what there is of the bundle with a digest, or begins it. It may be called from any goroutine.
func (d *Dir) OpenPart(digest string) (*Part, error) {
	f, err := os.OpenFile(d.file(contentDir+"/"+digest)+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the file to download to: %w", err)
	}
	return &Part{file: f, light: d.light}, nil
}

// Size in bytes.
func (p *Part) Size() (int64, error) {
	info, err := p.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("look at the download: %w", err)
	}
	return info.Size(), nil
}

// From forgets what is after so many bytes, and goes on there.
func (p *Part) From(bytes int64) error {
	if err := p.file.Truncate(bytes); err != nil {
		return fmt.Errorf("shorten the download: %w", err)
	}
	_, err := p.file.Seek(bytes, io.SeekStart)
	return err
}

// Write goes on.
func (p *Part) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	if err != nil {
		err = fmt.Errorf("write the download: %w", err)
	}
	return n, err
}

// Whole is all that there is, at most limit bytes, and is on the disk.
func (p *Part) Whole(limit int64) ([]byte, error) {
	if !p.light {
		if err := p.file.Sync(); err != nil {
			return nil, fmt.Errorf("write the download: %w", err)
		}
	}
	b, err := io.ReadAll(io.NewSectionReader(p.file, 0, limit))
	if err != nil {
		return nil, fmt.Errorf("read the download: %w", err)
	}
	return b, nil
}

// Drop removes it: what it holds is worth nothing, or takes room that is needed.
func (p *Part) Drop() error {
	if err := errors.Join(p.file.Truncate(0), os.Remove(p.file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the download: %w", err)
	}
	return nil
}

// Close leaves it where it is.
func (p *Part) Close() error { return p.file.Close() }
