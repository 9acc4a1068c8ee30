# edgeopt_add_model(<name> DEVICE <device>
#                   [ONNX <file> | SUPERNET <zoo entry>]
#                   [BUDGET <what> <value>...]
#                   [PRECISION auto|fp32|int8] [OPTIONS <option>...])
#
# Compiles a network with edgeopt while CMake configures, and adds it to the build as the library
# edgeopt::<name>. Whatever it was compiled from is watched: when the model, its external data, the
# device's profile, calibration images, an option or edgeopt itself changes, the next build compiles
# it again, and otherwise not.
#
#   list(APPEND CMAKE_MODULE_PATH <folder of this file>)
#   include(EdgeoptAddModel)
#   edgeopt_add_model(classifier DEVICE rpi4 ONNX classifier.onnx PRECISION int8)
#   edgeopt_add_model(tagger DEVICE nucleo-l4r5zi SUPERNET cifar_mbv3
#                     BUDGET ram 64KB flash 512KB latency 150ms)
#   target_link_libraries(app PRIVATE edgeopt::classifier edgeopt::tagger)
#
# BUDGET takes pairs of latency, ram, flash or accuracy and a value, as `edgeopt compile` reads
# them; OPTIONS are more of its options. Files are relative to the current source folder; MODEL is
# another word for ONNX. EDGEOPT_EXECUTABLE names the program if it is not on the path. <name> is
# the prefix of the generated C: letters, digits and underscores, a letter first.
cmake_minimum_required(VERSION 3.16)

# The files that a depfile names, as a list.
function(_edgeopt_read_depfile path result)
  set(found "")
  if(EXISTS "${path}")
    file(READ "${path}" text)
    string(REGEX REPLACE "^[^\n]*: *\\\\\n" "" text "${text}")
    string(REPLACE ";" "\\;" text "${text}")
    string(REPLACE "\\ " "\t" text "${text}")
    string(REGEX REPLACE "[ \n]*\\\\\n *" ";" text "${text}")
    string(STRIP "${text}" text)
    foreach(file IN LISTS text)
      string(REPLACE "\t" " " file "${file}")
      string(REPLACE "$$" "$" file "${file}")
      string(REPLACE "\\#" "#" file "${file}")
      string(STRIP "${file}" file)
      if(file)
        list(APPEND found "${file}")
      endif()
    endforeach()
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# What files hold, as text.
function(_edgeopt_digests result)
  set(text "")
  foreach(file IN LISTS ARGN)
    set(digest missing)
    if(IS_DIRECTORY "${file}")
      file(GLOB names RELATIVE "${file}" "${file}/*")
      string(SHA256 digest "${names}")
    elseif(EXISTS "${file}")
      file(SHA256 "${file}" digest)
    endif()
    string(APPEND text "${digest}  ${file}\n")
  endforeach()
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

function(edgeopt_add_model name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "DEVICE;MODEL;ONNX;SUPERNET;PRECISION" "BUDGET;OPTIONS")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_DEVICE)
    message(FATAL_ERROR "edgeopt_add_model(<name> DEVICE <device> [ONNX <file> | SUPERNET <entry>] "
      "[BUDGET <what> <value>...] [PRECISION <precision>] [OPTIONS ...])")
  endif()
  if(NOT name MATCHES "^[A-Za-z][A-Za-z0-9_]*$")
    message(FATAL_ERROR "edgeopt_add_model: ${name} is not a C identifier")
  endif()
  if(arg_MODEL)
    set(arg_ONNX ${arg_MODEL})
  endif()
  if(arg_ONNX AND arg_SUPERNET)
    message(FATAL_ERROR "edgeopt_add_model: ${name} has both ONNX and SUPERNET")
  endif()
  find_program(EDGEOPT_EXECUTABLE edgeopt DOC "edgeopt's command line program")
  if(NOT EDGEOPT_EXECUTABLE)
    message(FATAL_ERROR
      "edgeopt is missing: pip install edgeopt, or pass -DEDGEOPT_EXECUTABLE=<path>")
  endif()

  set(out ${CMAKE_CURRENT_BINARY_DIR}/${name})
  execute_process(COMMAND ${EDGEOPT_EXECUTABLE} --version
    OUTPUT_VARIABLE version RESULT_VARIABLE code)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${EDGEOPT_EXECUTABLE} does not run")
  endif()
  set(command compile)
  if(arg_ONNX)
    get_filename_component(model ${arg_ONNX} ABSOLUTE)
    if(NOT EXISTS ${model})
      message(FATAL_ERROR "edgeopt_add_model: no such model: ${model}")
    endif()
    list(APPEND command ${model})
  endif()
  list(APPEND command --device ${arg_DEVICE} --name ${name})
  if(arg_SUPERNET)
    list(APPEND command --supernet ${arg_SUPERNET})
  endif()
  if(arg_PRECISION)
    list(APPEND command --precision ${arg_PRECISION})
  endif()
  while(arg_BUDGET)
    list(POP_FRONT arg_BUDGET what value)
    if(NOT what MATCHES "^(latency|ram|flash|accuracy)$" OR "${value}" STREQUAL "")
      message(FATAL_ERROR
        "edgeopt_add_model: BUDGET takes pairs of latency, ram, flash or accuracy and a value, "
        "not: ${what} ${value}")
    endif()
    list(APPEND command --${what} ${value})
  endwhile()
  list(APPEND command ${arg_OPTIONS})

  # The stamp holds the command and the content of everything it read the last time.
  set(stamp ${out}.stamp)
  set(depfile ${out}.d)
  _edgeopt_read_depfile(${depfile} needed)
  _edgeopt_digests(digests ${needed})
  set(made "")
  if(EXISTS ${stamp})
    file(READ ${stamp} made)
  endif()
  if(NOT made STREQUAL "${version}${command}\n${digests}" OR NOT EXISTS ${out}/CMakeLists.txt)
    file(REMOVE ${stamp})
    message(STATUS "edgeopt: compiling ${name} for ${arg_DEVICE}")
    execute_process(
      COMMAND ${EDGEOPT_EXECUTABLE} ${command} -o ${out} --force --depfile ${depfile}
      WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} RESULT_VARIABLE code)
    if(NOT code EQUAL 0)
      # It is tried again when the model was mended.
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${model} ${needed})
      message(FATAL_ERROR "edgeopt could not compile ${name} (exit status ${code})")
    endif()
    _edgeopt_read_depfile(${depfile} needed)
    _edgeopt_digests(digests ${needed})
    file(WRITE ${stamp} "${version}${command}\n${digests}")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${needed})
  add_subdirectory(${out} ${out}.build)
endfunction()
