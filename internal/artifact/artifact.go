// Package artifact keeps the files that agents download, by the SHA-256 of what is in them: in a directory, or in a bucket of an object store that
// speaks S3 (gocloud.dev/blob). What is there never changes, so it may be written twice and read by many.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file:// is the default
	_ "gocloud.dev/blob/s3blob"   // s3:// is what object stores of many makers speak
	"gocloud.dev/gcerrors"

	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Errors of a Store.
var (
	// ErrNotFound: the store does not have it.
	ErrNotFound = errors.New("the artifact store does not have it")
	// ErrDamaged: what the store has under a digest has another.
	ErrDamaged = errors.New("the artifact store's copy has another digest than its name")
)

// Store is where artifacts are kept. It is for any number of goroutines.
type Store struct {
	bucket *blob.Bucket
	// Directory: it is one of this machine's, and others see it where it is a volume that they have, too.
	Directory bool
}

// Open makes a store of a URL: file:///a/directory, which is made if it is not there, or that of a bucket. Errors name the URL.
func Open(ctx context.Context, address string) (*Store, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("the artifact store %q is no URL: %w", address, err)
	}
	shown := u.Redacted()
	if u.Scheme == "file" {
		q := u.Query()
		q.Set("create_dir", "true")
		q.Set("no_tmp_dir", "true") // a file is renamed into its place, which the system's directory for temporary files may be too far for
		q.Set("metadata", "skip")   // else each would have a second one beside it
		u.RawQuery = q.Encode()
	}
	bucket, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("open the artifact store %s: %w", shown, err)
	}
	return &Store{bucket, u.Scheme == "file"}, nil
}

// Close lets go of it.
func (s *Store) Close() error { return s.bucket.Close() }

// Put keeps a file, whole or not at all, and returns its digest.
func (s *Store) Put(ctx context.Context, file []byte, mediaType string) (digest string, err error) {
	digest = content.Digest(file)
	if err := s.bucket.WriteAll(ctx, key(digest), file, &blob.WriterOptions{ContentType: mediaType}); err != nil {
		return "", fmt.Errorf("write to the artifact store: %w", err)
	}
	return digest, nil
}

// Reader reads a file, from anywhere in it: ErrNotFound where there is none. What it reads is not verified: whoever uses it does that.
func (s *Store) Reader(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	r, err := s.bucket.NewReader(ctx, key(digest), nil)
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return nil, ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("read from the artifact store: %w", err)
	}
	return r, nil
}

// Read has a file of at most limit bytes, verified by its digest: ErrNotFound, ErrDamaged, or why it cannot be read.
func (s *Store) Read(ctx context.Context, digest string, limit int64) ([]byte, error) {
	r, err := s.Reader(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // only read
	file, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read from the artifact store: %w", err)
	}
	if int64(len(file)) > limit || content.Digest(file) != digest {
		return nil, ErrDamaged
	}
	return file, nil
}

// Kept is a file of the store.
type Kept struct {
	Digest string
	// At is when it was put there, or put again, by the store's clock.
	At time.Time
}

// List has the files that were put into the store, and nothing else that lies there.
func (s *Store) List(ctx context.Context) ([]Kept, error) {
	var all []Kept
	for each := s.bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := each.Next(ctx)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the artifact store: %w", err)
		}
		if digest := strings.TrimPrefix(o.Key, prefix); wire.IsDigest(digest) {
			all = append(all, Kept{digest, o.ModTime})
		}
	}
}

// Delete takes a file away; that it is gone already is no error.
func (s *Store) Delete(ctx context.Context, digest string) error {
	if err := s.bucket.Delete(ctx, key(digest)); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete from the artifact store: %w", err)
	}
	return nil
}

const prefix = "sha256/"

func key(digest string) string { return prefix + digest }
