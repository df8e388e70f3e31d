// Prints each record of a RecordIO file (uncompressed or snappy) in hexadecimal, one a line.
//
// It decompresses with golang/snappy and takes the checksum of what has been consumed when the last record is complete,
// without reading on to the end of the chunk: a chunk whose stream goes on after that is refused.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"os"

	"github.com/golang/snappy"
)

type header struct{ Magic, Checksum, Compressor, Size, Records uint32 }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	log.SetFlags(0)
	file, err := os.Open(os.Args[1])
	check(err)
	in, out := bufio.NewReader(file), bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for {
		var h header
		if err := binary.Read(in, binary.LittleEndian, &h); err == io.EOF {
			return
		} else {
			check(err)
		}
		if h.Magic != 0x01020304 {
			log.Fatalf("magic number %#x", h.Magic)
		}
		sum := crc32.NewIEEE()
		var payload io.Reader = io.TeeReader(io.LimitReader(in, int64(h.Size)), sum)
		if h.Compressor == 1 {
			payload = snappy.NewReader(payload)
		}
		for i := uint32(0); i < h.Records; i++ {
			var length uint32
			check(binary.Read(payload, binary.LittleEndian, &length))
			record := make([]byte, length)
			_, err := io.ReadFull(payload, record)
			check(err)
			fmt.Fprintf(out, "%x\n", record)
		}
		if sum.Sum32() != h.Checksum {
			log.Fatalf("checksum of what was consumed is %#x, the header says %#x", sum.Sum32(), h.Checksum)
		}
	}
}
