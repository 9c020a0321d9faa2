ffmpeg -v error -f lavfi -i testsrc=duration=1:size=32x32:rate=5 -f rawvideo out.raw && [ -s out.raw ]
convert-im6.q16 -version | head -1
