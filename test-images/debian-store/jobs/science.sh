python3 -c '
import io, lxml.etree, numpy, PIL.Image, yaml
assert numpy.allclose(numpy.linalg.inv(numpy.eye(3) * 2), numpy.eye(3) / 2)
file = io.BytesIO()
PIL.Image.new("RGB", (8, 8), "red").save(file, "PNG")
assert PIL.Image.open(file).size == (8, 8)
assert yaml.safe_load("a: [1, 2]") == {"a": [1, 2]}
assert lxml.etree.fromstring("<a><b/></a>").find("b") is not None'
